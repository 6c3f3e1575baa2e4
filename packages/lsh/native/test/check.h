#ifndef MAGICPIG_LSH_TEST_CHECK_H_
#define MAGICPIG_LSH_TEST_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                          \
  if (!(condition)) {                                                             \
    std::fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
    std::exit(1);                                                                 \
  }

// The code of the FileError that `call` throws, or "none".
#define FILE_ERROR(call)                                  \
  ([&]() -> std::string {                                 \
    try {                                                 \
      call;                                               \
    } catch (const magicpig::lsh::FileError& error) {     \
      return error.code;                                  \
    }                                                     \
    return "none";                                        \
  }())

void ContainerRefusesDamage();
void DamagedFilesAreHarmless();
void ForksAndSegmentsAreRight();
void KeySketchesAreRight();
void SketchKernelsAreRight();

#endif  // MAGICPIG_LSH_TEST_CHECK_H_
