// Owning reference to a thread pool.
#ifndef MAGICPIG_LSH_POOL_HANDLE_H_
#define MAGICPIG_LSH_POOL_HANDLE_H_

#include <cstdint>
#include <memory>

#include "../include/magicpig/pool.h"

namespace magicpig::lsh {

using PoolHandle = std::shared_ptr<const magicpig_pool>;

// A reference to a pool of another addon.
PoolHandle SharePool(const magicpig_pool& pool);

// The pool of `threads` threads that all indexes of the process share; it ends with the last reference. Throws
// std::bad_alloc or std::system_error (no more threads to be had).
PoolHandle ProcessPool(uint32_t threads);

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_POOL_HANDLE_H_
