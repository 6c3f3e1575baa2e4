// The thread-pool ABI: lets several addons of one process share one pool, so that a worker spinning for one addon never
// holds the core that another addon's worker needs. Passed as a Napi::External<magicpig_pool> tagged with
// MAGICPIG_POOL_TAG. thread_pool.h implements it.
#ifndef MAGICPIG_POOL_H_
#define MAGICPIG_POOL_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MAGICPIG_POOL_ABI 1u
#define MAGICPIG_POOL_TAG_LOWER 0x6d61676963706967ull
#define MAGICPIG_POOL_TAG_UPPER 0x706f6f6c706f6f6cull

typedef struct magicpig_pool {
  uint32_t abi;      // MAGICPIG_POOL_ABI
  uint32_t threads;  // threads that run tasks, the calling one included
  void* context;
  // Calls body(arg, task, thread) once for each task in [0, tasks), thread in [0, threads), and returns when all have
  // returned. Tasks are handed out in ascending order from one counter. Calls from several threads at once wait for each
  // other; body must not call run itself.
  void (*run)(void* context, uint32_t tasks, void (*body)(void* arg, uint32_t task, uint32_t thread), void* arg);
  void (*retain)(void* context);
  void (*release)(void* context);
} magicpig_pool;

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // MAGICPIG_POOL_H_
