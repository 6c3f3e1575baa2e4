#include "pool_handle.h"

#include <map>
#include <mutex>

#include "../include/magicpig/thread_pool.h"

namespace magicpig::lsh {
namespace {

PoolHandle Own(const magicpig_pool& pool) {
  return PoolHandle(new magicpig_pool(pool), [](const magicpig_pool* owned) {
    owned->release(owned->context);
    delete owned;
  });
}

}  // namespace

PoolHandle SharePool(const magicpig_pool& pool) {
  pool.retain(pool.context);
  return Own(pool);
}

PoolHandle ProcessPool(uint32_t threads) {
  static std::mutex mutex;
  static std::map<uint32_t, std::weak_ptr<const magicpig_pool>> pools;
  std::lock_guard<std::mutex> lock(mutex);
  auto& known = pools[threads];
  if (PoolHandle pool = known.lock()) return pool;
  PoolHandle pool = Own(ThreadPool::Create(threads));
  known = pool;
  return pool;
}

}  // namespace magicpig::lsh
