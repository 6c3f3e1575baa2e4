// The selector ABI: how a sampled-attention kernel asks which keys a query should read, and how to correct for the choice.
//
// A selector is passed between Node addons as a Napi::External<magicpig_selector> tagged with MAGICPIG_SELECTOR_TAG, so
// that selection runs inside the attention kernel's own threads with no JavaScript between. @magicpig/lsh implements it
// with SimHash tables; anyone may implement it otherwise. Plain C, so that any compiler and any language can.
#ifndef MAGICPIG_SELECTOR_H_
#define MAGICPIG_SELECTOR_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MAGICPIG_SELECTOR_ABI 1u
// Lower and upper half of the napi_type_tag of the External that carries a selector.
#define MAGICPIG_SELECTOR_TAG_LOWER 0x6d61676963706967ull
#define MAGICPIG_SELECTOR_TAG_UPPER 0x73656c6563746f72ull

// How the attention kernel corrects the scores of the selected keys (paper, Algorithm 1: subtract log u from the score).
typedef enum magicpig_correction {
  MAGICPIG_CORRECTION_NONE = 0,             // the selection is a truncation (TopK, window): weights as they are
  MAGICPIG_CORRECTION_COSINE_TABLE = 1,     // -log u is a function of the cosine between the query and the centred key
  MAGICPIG_CORRECTION_LOG_PROBABILITY = 2,  // one log inclusion probability for each selected key
} magicpig_correction;

// One call: the query heads of one KV head (a GQA group, or a part of one) of one sequence.
typedef struct magicpig_selector_args {
  uint32_t head;         // which index: layer * kv_heads + kv_head
  uint32_t query_head;   // index, among the layer's query heads, of the first query
  uint32_t queries;      // number of query heads asked for, at least 1
  uint32_t head_dim;     // d
  uint32_t indexed;      // only ids below this may be returned (tokens the caller treats as sampled)
  uint32_t step;         // position of the query token; keys random draws, so that results do not depend on threads
  const float* query;    // (queries, head_dim), rows adjacent; after RoPE, not divided by sqrt(d)
} magicpig_selector_args;

// What is selected for one query head. All pointers stay valid until the next select() on the same thread.
typedef struct magicpig_selection {
  const uint32_t* ids;           // (count) strictly ascending, relative to the first indexed token
  uint32_t count;
  magicpig_correction correction;
  const float* log_probability;  // (count) for LOG_PROBABILITY, otherwise NULL
  const float* table;            // (table_size) for COSINE_TABLE: -log u at cosine -1 + 2 i / (table_size - 1), interpolated linearly
  uint32_t table_size;           // at least 2 for COSINE_TABLE
  const float* centre;           // (head_dim) mu for COSINE_TABLE, or NULL for zero: the cosine is that of q and k - mu
  const float* inverse_norms;    // (indexed) 1 / |k_i - mu| by id for COSINE_TABLE
} magicpig_selection;

typedef struct magicpig_selector {
  uint32_t abi;   // MAGICPIG_SELECTOR_ABI
  uint32_t head_dim;  // d the selector was built for
  uint32_t heads;     // indices 0..heads-1 are valid in magicpig_selector_args.head
  void* context;
  // Fills out[0 .. args->queries). Returns 0, or another value when it failed (out of memory); the kernel then reports an
  // error and no output is valid. Called from many threads at once; never while the index is being changed.
  int (*select)(void* context, const magicpig_selector_args* args, magicpig_selection* out);
  // The External holds one reference and calls release from its finalizer; holders that outlive it retain first.
  void (*retain)(void* context);
  void (*release)(void* context);
} magicpig_selector;

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // MAGICPIG_SELECTOR_H_
