#ifndef MAGICPIG_LSH_TEST_NORMALS_H_
#define MAGICPIG_LSH_TEST_NORMALS_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

inline std::vector<float> Normals(size_t n, uint64_t seed, float scale = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random) * scale;
  return values;
}

#endif  // MAGICPIG_LSH_TEST_NORMALS_H_
