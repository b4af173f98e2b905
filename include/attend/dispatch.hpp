// SPDX-License-Identifier: BSD-3-Clause
// One program for several processors: a file is compiled once for each instruction set, and the best that the processor
// has is taken when the program runs. docs/dispatch.md tells the whole of it; this header includes nothing of Eigen.
//
// CMake compiles the file: attend_add_dispatched(program kernels.cpp TARGETS x86-64-v2 x86-64-v3 x86-64-v4).
//
//     // kernels.hpp: what is compiled once per target, as pointers to functions
//     struct kernels {
//       void (*attention)(float const* query, float const* key, float const* value, float* output, int tokens);
//     };
//
//     // kernels.cpp
//     namespace {
//     void attention(...) { attend::softmax_attention(...); }
//     }
//     template <>
//     kernels attend::compiled<kernels, attend::this_target>() {
//       return {attention};
//     }
//
//     // anywhere in the program
//     attend::dispatched<kernels>().attention(...);
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.hpp"
#include "core/processor.hpp"

// What the caller and all targets name alike stands outside of the inline namespace. None of it has a body.
namespace attend {

/// A type for each target that a program may be compiled for.
namespace targets {

struct x86_64;
struct x86_64_v2;
struct x86_64_v3;
struct x86_64_v4;
struct cascadelake;
struct cooperlake;
struct icelake_server;
struct sapphirerapids;
struct armv8_a;
struct armv8_2_a_fp16_dotprod;
struct armv8_6_a_fp16;

template <class... Targets>
struct list {};

/// Those that attend_add_dispatched was given, in its order.
#if defined(ATTEND_DISPATCH_TARGETS)
using all = list<ATTEND_DISPATCH_TARGETS>;
#else
using all = list<>;
#endif

}  // namespace targets

#if defined(ATTEND_DISPATCHED)
/// The target that this file is being compiled for: in a file that attend_add_dispatched compiles.
using this_target = targets::ATTEND_DISPATCHED;
#endif

/// The table of what was compiled for a target: usually a struct of pointers to functions. A file that
/// attend_add_dispatched compiles specialises it for its table and this_target; it is called for the target that the
/// processor can run, and for no other.
///
/// A table must be the same type for every target, so neither it nor its functions' arguments may be of attend's own
/// types, which are other types for other instruction sets: pointers, numbers, and what the program itself defines.
template <class Table, class Target>
Table compiled();

}  // namespace attend

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// A target's name, as attend_add_dispatched and ATTEND_DISPATCH call it, and what it needs of a processor.
template <class Target>
inline constexpr char const* target_name = nullptr;
template <class Target>
inline constexpr processor_features target_needs{};

#if defined(__x86_64__) || defined(__i386__)
template <>
inline constexpr char const* target_name<targets::x86_64> = "x86-64";
template <>
inline constexpr processor_features target_needs<targets::x86_64> = processor::x86_64;
template <>
inline constexpr char const* target_name<targets::x86_64_v2> = "x86-64-v2";
template <>
inline constexpr processor_features target_needs<targets::x86_64_v2> = processor::x86_64_v2;
template <>
inline constexpr char const* target_name<targets::x86_64_v3> = "x86-64-v3";
template <>
inline constexpr processor_features target_needs<targets::x86_64_v3> = processor::x86_64_v3;
template <>
inline constexpr char const* target_name<targets::x86_64_v4> = "x86-64-v4";
template <>
inline constexpr processor_features target_needs<targets::x86_64_v4> = processor::x86_64_v4;
template <>
inline constexpr char const* target_name<targets::cascadelake> = "cascadelake";
template <>
inline constexpr processor_features target_needs<targets::cascadelake> = processor::cascadelake;
template <>
inline constexpr char const* target_name<targets::cooperlake> = "cooperlake";
template <>
inline constexpr processor_features target_needs<targets::cooperlake> = processor::cooperlake;
template <>
inline constexpr char const* target_name<targets::icelake_server> = "icelake-server";
template <>
inline constexpr processor_features target_needs<targets::icelake_server> = processor::icelake_server;
template <>
inline constexpr char const* target_name<targets::sapphirerapids> = "sapphirerapids";
template <>
inline constexpr processor_features target_needs<targets::sapphirerapids> = processor::sapphirerapids;
#elif defined(__aarch64__)
template <>
inline constexpr char const* target_name<targets::armv8_a> = "armv8-a";
template <>
inline constexpr processor_features target_needs<targets::armv8_a> = processor::armv8_a;
template <>
inline constexpr char const* target_name<targets::armv8_2_a_fp16_dotprod> = "armv8.2-a+fp16+dotprod";
template <>
inline constexpr processor_features target_needs<targets::armv8_2_a_fp16_dotprod> = processor::armv8_2_a_fp16_dotprod;
template <>
inline constexpr char const* target_name<targets::armv8_6_a_fp16> = "armv8.6-a+fp16";
template <>
inline constexpr processor_features target_needs<targets::armv8_6_a_fp16> = processor::armv8_6_a_fp16;
#endif

#if defined(ATTEND_DISPATCHED)
static_assert(target_needs<this_target>.includes(processor::compiled),
              "attend: this file is compiled for more than its target has; drop options such as -mavx2 or -mavx512f");
#endif

/// The last target whose name is `wanted`, or where nothing is wanted, the last of all, among those that the processor
/// can run.
template <class Table, class... Targets>
Table choose(targets::list<Targets...>, std::string_view wanted) {
  static_assert(
      sizeof...(Targets) > 0,
      "attend: nothing is dispatched here; in CMake, attend_add_dispatched(target source TARGETS ...) does it");
  processor_features const found = features_of_this_processor();
  Table (*best)() = nullptr;
  std::string runnable, all;
  auto const consider = [&](char const* name, processor_features const& needs, Table (*table)()) {
    all += (all.empty() ? "" : ", ") + std::string(name);
    if (!found.includes(needs)) return;
    runnable += (runnable.empty() ? "" : ", ") + std::string(name);
    if (wanted.empty() || wanted == name) best = table;
  };
  (consider(target_name<Targets>, target_needs<Targets>, &compiled<Table, Targets>), ...);
  if (runnable.empty()) fail("processor", "expected one that can run ", all, ", got one that can run none of them");
  if (best == nullptr)
    fail("ATTEND_DISPATCH", "expected one of ", runnable, " (what this processor can run), got ", wanted);
  return best();
}

}  // namespace detail

/// The table that was compiled for the last of attend_add_dispatched's targets that the processor can run and the
/// operating system saves the registers of; chosen at the first call. The environment variable ATTEND_DISPATCH, where
/// it is set and not empty, names another one of them, for tests and comparisons.
///
/// Throws argument_error where the processor can run none of the targets, or not the one that is named.
template <class Table, class Targets = targets::all>
Table const& dispatched() {
  static Table const chosen = [] {
    char const* const wanted = std::getenv("ATTEND_DISPATCH");
    return detail::choose<Table>(Targets{}, wanted == nullptr ? "" : wanted);
  }();
  return chosen;
}

}  // namespace attend::inline ATTEND_TARGET
