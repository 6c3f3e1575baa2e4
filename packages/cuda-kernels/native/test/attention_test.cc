// Attention over prompts and in decoding, and the merge of partial results.
#include "../kernels/attention_decode.h"
#include "../kernels/attention_prefill.h"
#include "context.h"

namespace magicpig::test {

namespace {

// A cache in either layout, or in pages in a random order with NaN in the pages that belong to nobody.
struct Cache {
  std::vector<bf16> k, v;
  std::vector<int32_t> pages;
  KvView view{};
  int64_t sequence_stride = 0;
  int pages_stride = 0;
  int kv_heads, dim;

  Cache(Random& random, int sequences, int tokens, int kv_heads_, int dim_, bool paged, bool heads_first) : kv_heads(kv_heads_), dim(dim_) {
    const int pages_each = tokens / kPageTokens + 1;
    const int64_t elements = static_cast<int64_t>(sequences) * (paged ? (pages_each + 1) * kPageTokens : tokens) * kv_heads * dim;
    k = random.normal_bf16(elements);
    v = random.normal_bf16(elements);
    view.token_stride = heads_first ? dim : kv_heads * dim;
    view.head_stride = heads_first ? (paged ? kPageTokens : tokens) * dim : dim;
    view.page_stride = paged ? kPageTokens * kv_heads * dim : kPageTokens * view.token_stride;
    sequence_stride = static_cast<int64_t>(tokens) * kv_heads * dim;
    if (paged) {
      pages_stride = pages_each;
      std::vector<int32_t> all(sequences * (pages_each + 1));
      for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
      std::shuffle(all.begin(), all.end(), random.engine());
      pages.assign(all.begin(), all.begin() + sequences * pages_each);
      for (size_t i = pages.size(); i < all.size(); ++i) {
        std::fill_n(&k[all[i] * view.page_stride], view.page_stride, bf16{0xffff});
        std::fill_n(&v[all[i] * view.page_stride], view.page_stride, bf16{0xffff});
      }
    }
  }
  // Makes what lies past a sequence's end NaN: nothing there may reach a result.
  void spoil(int sequence, int from, int tokens) {
    for (int token = from; token < tokens; ++token) {
      for (int head = 0; head < kv_heads; ++head) {
        std::fill_n(&k[offset(sequence, token, head)], dim, bf16{0xffff});
        std::fill_n(&v[offset(sequence, token, head)], dim, bf16{0xffff});
      }
    }
  }
  int64_t offset(int sequence, int token, int head) const {
    return pages.empty() ? sequence * sequence_stride + view.row(nullptr, token, head) : view.row(&pages[sequence * pages_stride], token, head);
  }
  std::vector<int64_t> offsets(int sequence, int keys, int head) const {
    std::vector<int64_t> result(keys);
    for (int token = 0; token < keys; ++token) result[token] = offset(sequence, token, head);
    return result;
  }
};

}  // namespace

void test_attention_prefill(Context& c) {
  struct Shape {
    int queries, keys, query_heads, kv_heads, dim;
    int64_t query_position, key_position;
    bool paged, heads_first;
  };
  std::vector<Shape> shapes = {
      {1, 1, 1, 1, 64, 0, 0, false, false},      {70, 70, 2, 2, 64, 0, 0, false, true},   {37, 150, 6, 2, 128, 113, 0, false, false},
      {130, 130, 4, 1, 80, 0, 0, false, false},  {9, 200, 9, 3, 64, 191, 0, true, false}, {20, 64, 8, 2, 128, 100, 40, false, true},
      {6, 40, 2, 1, 64, 2, 5, true, true},
  };
  if (!c.quick) shapes.push_back({300, 700, 8, 2, 128, 400, 0, true, false});
  for (const Shape& s : shapes) {
    const std::string what = "attention_prefill " + shape_text({{"queries", s.queries}, {"keys", s.keys}, {"heads", s.query_heads},
                                                                {"kv_heads", s.kv_heads}, {"dim", s.dim}, {"paged", s.paged}});
    Cache cache(c.random, 1, s.keys + 30, s.kv_heads, s.dim, s.paged, s.heads_first);
    cache.spoil(0, s.keys, s.keys + 30);
    const std::vector<bf16> q = c.random.normal_bf16(s.queries * s.query_heads * s.dim);
    const double scale = 1 / std::sqrt(static_cast<double>(s.dim));
    std::vector<double> ref(q.size()), ref_lse(s.queries * s.query_heads);
    for (int query = 0; query < s.queries; ++query) {
      for (int head = 0; head < s.query_heads; ++head) {
        const int row = query * s.query_heads + head;
        const int keys = visible_keys(s.query_position + query, s.key_position, s.keys);
        const auto offsets = cache.offsets(0, keys, head / (s.query_heads / s.kv_heads));
        ref_lse[row] = reference::attention_row(&ref[row * s.dim], &q[row * s.dim], cache.k.data(), cache.v.data(), offsets.data(), keys, s.dim, scale);
      }
    }
    DeviceBuffer<bf16> dq(q), dk(cache.k), dv(cache.v), out_bf16(q.size());
    DeviceBuffer<int32_t> pages(cache.pages);
    DeviceBuffer<float> out(q.size()), lse(ref_lse.size());
    KvView view = cache.view;
    view.k = dk.get();
    view.v = dv.get();
    view.pages = s.paged ? pages.get() : nullptr;
    const PrefillShape shape{s.queries, s.keys, s.query_heads, s.kv_heads, s.dim, s.query_position, s.key_position, static_cast<float>(scale)};
    CHECK_CUDA(attention_prefill(nullptr, out.get(), nullptr, lse.get(), dq.get(), view, shape));
    c.compare(out, ref, kAttentionLimit, what);
    c.compare(lse, ref_lse, 1e-4, what + " lse");
#if defined(MAGICPIG_EMULATE)
    emulator::set_multiprocessor_shared(228 * 1024);  // as sm_90: longer tiles
#endif
    CHECK_CUDA(attention_prefill(nullptr, nullptr, out_bf16.get(), nullptr, dq.get(), view, shape));
    c.compare(out_bf16, ref, kAttentionLimit, what + " bf16");
#if defined(MAGICPIG_EMULATE)
    emulator::set_multiprocessor_shared(100 * 1024);
#endif
  }
}

void test_attention_decode(Context& c) {
  struct Shape {
    std::vector<int32_t> lengths;
    int query_heads, kv_heads, dim, split;
    bool paged, heads_first;
    std::vector<int32_t> gaps = {};
  };
  std::vector<Shape> shapes = {
      {{1}, 1, 1, 64, 64, false, false},
      {{0, 5, 64}, 9, 3, 64, 64, false, false},
      {{130, 0, 257}, 8, 2, 128, 64, true, false},
      {{300}, 4, 1, 80, 128, false, true},
      {{77, 200}, 20, 1, 64, 256, true, true},
      {{128}, 6, 3, 128, 64, false, true},
      // Keys left out: none, some of one split, whole splits, all.
      {{130, 70, 0, 257, 200}, 8, 2, 128, 64, true, false, {5, 5, 4, 69, 0, 0, 3, 201, 0, 200}},
      {{190, 64}, 4, 2, 64, 256, true, false, {4, 101, 0, 63}},
  };
  if (!c.quick) shapes.push_back({{3000, 1, 0, 2049}, 32, 8, 128, 512, true, false, {100, 2900, 0, 0, 0, 0, 2048, 2049}});
  for (const Shape& s : shapes) {
    const int sequences = static_cast<int>(s.lengths.size());
    const int most = *std::max_element(s.lengths.begin(), s.lengths.end());
    const std::string what = "attention_decode " + shape_text({{"sequences", sequences}, {"keys", most}, {"heads", s.query_heads},
                                                               {"kv_heads", s.kv_heads}, {"dim", s.dim}, {"paged", s.paged}});
    Cache cache(c.random, sequences, most + 30, s.kv_heads, s.dim, s.paged, s.heads_first);
    const std::vector<bf16> q = c.random.normal_bf16(sequences * s.query_heads * s.dim);
    const double scale = 1 / std::sqrt(static_cast<double>(s.dim));
    std::vector<double> ref(q.size()), ref_lse(sequences * s.query_heads);
    for (int sequence = 0; sequence < sequences; ++sequence) {
      cache.spoil(sequence, s.lengths[sequence], most + 30);
      const int gap = s.gaps.empty() ? 0 : s.gaps[2 * sequence], gap_end = s.gaps.empty() ? 0 : s.gaps[2 * sequence + 1];
      cache.spoil(sequence, gap, gap_end);
      for (int head = 0; head < s.query_heads; ++head) {
        const int row = sequence * s.query_heads + head;
        auto offsets = cache.offsets(sequence, s.lengths[sequence], head / (s.query_heads / s.kv_heads));
        offsets.erase(offsets.begin() + gap, offsets.begin() + gap_end);
        ref_lse[row] = reference::attention_row(&ref[row * s.dim], &q[row * s.dim], cache.k.data(), cache.v.data(), offsets.data(),
                                                static_cast<int>(offsets.size()), s.dim, scale);
      }
    }
    DeviceBuffer<bf16> dq(q), dk(cache.k), dv(cache.v), out_bf16(q.size());
    DeviceBuffer<int32_t> pages(cache.pages), lengths(s.lengths), gap_array(s.gaps);
    const int32_t* gaps = s.gaps.empty() ? nullptr : gap_array.get();
    DeviceBuffer<float> out(q.size()), lse(ref_lse.size());
    KvView view = cache.view;
    view.k = dk.get();
    view.v = dv.get();
    view.pages = s.paged ? pages.get() : nullptr;
    DecodeShape shape{sequences, s.query_heads, s.kv_heads, s.dim, cache.pages_stride, cache.sequence_stride, most, s.split, static_cast<float>(scale)};
    DeviceBuffer<char> workspace(attention_decode_workspace(shape));
    CHECK_CUDA(attention_decode(nullptr, out.get(), nullptr, lse.get(), workspace.get(), dq.get(), view, lengths.get(), gaps, shape));
    c.compare(out, ref, kAttentionLimit, what);
    c.compare(lse, ref_lse, 1e-4, what + " lse");
    c.expect(workspace.check_guard(), what + ": wrote past its workspace");
    CHECK_CUDA(attention_decode(nullptr, nullptr, out_bf16.get(), nullptr, workspace.get(), dq.get(), view, lengths.get(), gaps, shape));
    c.compare(out_bf16, ref, kAttentionLimit, what + " bf16");

    // A larger bound on the lengths changes nothing, to the bit.
    const std::vector<float> exact = out.download();
    shape.max_keys = most + 3 * s.split;
    DeviceBuffer<char> larger(attention_decode_workspace(shape));
    out.poison();
    const bool one_split = attention_decode_workspace(DecodeShape{sequences, s.query_heads, s.kv_heads, s.dim, 0, 0, most, s.split, 1}) == 0;
    CHECK_CUDA(attention_decode(nullptr, out.get(), nullptr, lse.get(), larger.get(), dq.get(), view, lengths.get(), gaps, shape));
    if (one_split) {
      c.compare(out, ref, kAttentionLimit, what + " with a larger bound");
    } else {
      c.equal(out, exact, what + " with a larger bound");
    }
  }
}

void test_merge(Context& c) {
  for (const auto& [rows, dim] : {std::pair{1, 4}, {9, 64}, {33, 128}}) {
    const float none = -HUGE_VALF;
    std::vector<float> a = c.random.normal(rows * dim), b = c.random.normal(rows * dim);
    std::vector<float> lse_a = c.random.normal(rows, 3.0f, 4.0f), lse_b = c.random.normal(rows, 3.0f, 4.0f);
    if (rows > 3) {
      lse_a[1] = lse_a[2] = lse_b[2] = lse_b[3] = none;
      std::fill_n(&a[dim], dim, std::nanf(""));  // a part without keys may hold anything
    }
    std::vector<double> ref(rows * dim), ref_lse(rows);
    for (int row = 0; row < rows; ++row) {
      const double top = std::max(lse_a[row], lse_b[row]);
      const double wa = top == none ? 0 : std::exp(lse_a[row] - top), wb = top == none ? 0 : std::exp(lse_b[row] - top);
      ref_lse[row] = top == none ? top : top + std::log(wa + wb);
      for (int i = 0; i < dim; ++i) {
        ref[row * dim + i] = top == none ? 0 : ((wa > 0 ? wa * a[row * dim + i] : 0) + (wb > 0 ? wb * b[row * dim + i] : 0)) / (wa + wb);
      }
    }
    DeviceBuffer<float> da(a), db(b), dla(lse_a), dlb(lse_b), out(ref.size()), lse(rows);
    DeviceBuffer<bf16> out_bf16(ref.size());
    CHECK_CUDA(merge_attention(nullptr, out.get(), nullptr, lse.get(), da.get(), dla.get(), db.get(), dlb.get(), rows, dim));
    c.compare(out, ref, 2e-5, "merge_attention " + shape_text({{"rows", rows}, {"dim", dim}}));
    c.compare(lse, ref_lse, 1e-5, "merge_attention lse");
    CHECK_CUDA(merge_attention(nullptr, nullptr, out_bf16.get(), dla.get(), da.get(), dla.get(), db.get(), dlb.get(), rows, dim));
    c.compare(out_bf16, ref, kRoundedLimit, "merge_attention bf16");
    c.compare(dla, ref_lse, 1e-5, "merge_attention lse in place");
  }
}

}  // namespace magicpig::test
