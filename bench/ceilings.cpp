// SPDX-License-Identifier: BSD-3-Clause
// Loops that do nothing but what they measure.
#include "ceilings.hpp"

#include <attend/core/buffer.hpp>
#include <attend/simd/register_tile.hpp>

#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

namespace attend_bench {
namespace {

using attend::index_t;
using clock = std::chrono::steady_clock;

double seconds_since(clock::time_point begin) { return std::chrono::duration<double>(clock::now() - begin).count(); }

/// Calls rate(thread) on threads that begin together, and adds up what they return.
template <class Rate>
double summed_rate(int threads, Rate rate) {
  std::vector<double> rates(static_cast<std::size_t>(threads));
  std::barrier start(threads);
  auto const work = [&](int thread) {
    start.arrive_and_wait();
    rates[static_cast<std::size_t>(thread)] = rate(thread);
  };
  std::vector<std::thread> helpers;
  for (int thread = 1; thread < threads; ++thread) helpers.emplace_back(work, thread);
  work(0);
  for (std::thread& helper : helpers) helper.join();
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

/// The compiler must believe that the register is read and changed here: so it is neither left out, nor combined with
/// others, nor put into memory.
template <class Register>
ATTEND_INLINE void keep(Register& x) {
#if defined(__x86_64__) || defined(__i386__)
  asm volatile("" : "+v"(x));
#else
  asm volatile("" : "+w"(x));
#endif
}

// As many sums in flight as the library's own register tile has: more than latency times ports.
constexpr int sums_in_flight = attend::simd::register_rows * attend::simd::register_vectors;

template <class A>
[[gnu::noinline]] void multiply_add(index_t iterations) {
  using vector = attend::simd::vector<A>;
  using vector_register = typename vector::register_type;
  vector_register sum[sums_in_flight];
  ATTEND_UNROLL for (int i = 0; i < sums_in_flight; ++i) sum[i] = vector(A(1));
  vector_register a = vector(A(0.5)), b = vector(A(0.25));
  keep(a);
  keep(b);
  for (index_t iteration = 0; iteration < iterations; ++iteration) {
    ATTEND_UNROLL for (int i = 0; i < sums_in_flight; ++i) {
      sum[i] = attend::simd::fused_multiply_add<A>(vector(a), vector(b), vector(sum[i]));
    }
    ATTEND_UNROLL for (int i = 0; i < sums_in_flight; ++i) keep(sum[i]);
  }
}

/// The best of many pieces, each so short that some are not interrupted even where the machine is shared.
template <class A>
double multiply_add_rate() {
  constexpr index_t iterations = 50'000;
  constexpr int pieces = 20;
  constexpr double operations = 2.0 * sums_in_flight * attend::simd::width<A> * iterations;
  double best = 0;
  for (int piece = 0; piece < pieces; ++piece) {
    auto const begin = clock::now();
    multiply_add<A>(iterations);
    best = std::max(best, operations / seconds_since(begin));
  }
  return best;
}

/// Reads two streams at once, as a kernel reads keys and values: one alone is a little slower.
[[gnu::noinline]] void read(float const* from, index_t count) {
  constexpr int in_flight = 4, step = attend::simd::width<float>;
  using vector = attend::simd::vector<float>;
  index_t const half = count / 2;
  vector first[in_flight], second[in_flight];
  ATTEND_UNROLL for (int i = 0; i < in_flight; ++i) first[i] = second[i] = vector(0.0f);
  for (index_t at = 0; at + in_flight * step <= half; at += in_flight * step) {
    ATTEND_UNROLL for (int i = 0; i < in_flight; ++i) {
      first[i] = first[i] + attend::simd::load(from + at + i * step);
      second[i] = second[i] + attend::simd::load(from + half + at + i * step);
    }
  }
  ATTEND_UNROLL for (int i = 0; i < in_flight; ++i) {
    typename vector::register_type total = first[i] + second[i];
    keep(total);
  }
}

/// Memory to read from: at least 1 GiB, and four times the last-level cache where the system tells its size. It is read
/// a quarter at a time, so that what a run reads is no longer in any cache.
class stream_buffer {
 public:
  static constexpr int quarters = 4;

  static stream_buffer& instance() {
    static stream_buffer buffer;
    return buffer;
  }

  float const* next_quarter() {
    quarter_ = (quarter_ + 1) % quarters;
    return elements_.get() + quarter_ * quarter_size();
  }
  index_t quarter_size() const { return size_ / quarters; }

 private:
  struct aligned_delete {
    void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t{alignment}); }
  };
  static constexpr std::size_t alignment = 4096;

  stream_buffer() {
    index_t bytes = index_t{1} << 30;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    bytes = std::max<index_t>(bytes, 4 * sysconf(_SC_LEVEL3_CACHE_SIZE));
#endif
    size_ = bytes / static_cast<index_t>(sizeof(float));
    elements_.reset(
        static_cast<float*>(::operator new[](static_cast<std::size_t>(bytes), std::align_val_t{alignment})));
    // As the library's own stores do.
    attend::detail::advise_large_pages(reinterpret_cast<std::byte*>(elements_.get()), bytes);
    // Pages that were never written to are all one page of zeros, which stays in the cache.
    std::fill_n(elements_.get(), size_, 1.0f);
  }

  std::unique_ptr<float[], aligned_delete> elements_;
  index_t size_ = 0;
  int quarter_ = 0;
};

}  // namespace

template <class A>
double fma_peak(int threads) {
  return summed_rate(threads, [](int) { return multiply_add_rate<A>(); });
}

template double fma_peak<float>(int threads);
template double fma_peak<double>(int threads);

double calls_per_second(std::vector<std::function<void()>> const& calls) {
  constexpr double least_seconds = 0.02;
  return summed_rate(static_cast<int>(calls.size()), [&](int thread) {
    std::function<void()> const& call = calls[static_cast<std::size_t>(thread)];
    call();
    auto const begin = clock::now();
    double made = 0, seconds = 0;
    for (; made == 0 || seconds < least_seconds; seconds = seconds_since(begin)) {
      call();
      ++made;
    }
    return made / seconds;
  });
}

double read_bandwidth(int threads) {
  stream_buffer& buffer = stream_buffer::instance();
  // A multiple of what the loop reads in one turn, for vectors of any width.
  index_t const share = buffer.quarter_size() / threads / 1024 * 1024;
  float const* const quarter = buffer.next_quarter();
  return summed_rate(threads, [=](int thread) {
    auto const begin = clock::now();
    read(quarter + thread * share, share);
    return static_cast<double>(share) * sizeof(float) / seconds_since(begin);
  });
}

}  // namespace attend_bench
