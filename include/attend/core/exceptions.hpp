// SPDX-License-Identifier: BSD-3-Clause
// try and catch as functions, for code that must also compile without exceptions (-fno-exceptions), where the language
// has neither. There nothing can be caught: what the standard library throws, for want of memory or of threads, ends
// the program.
#pragma once

#include "target.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// Calls work(). Where it throws, calls otherwise() within the handler, and the exception ends there.
template <class Work, class Otherwise>
void attempt(Work&& work, [[maybe_unused]] Otherwise&& otherwise) {
#if !defined(__cpp_exceptions)
  work();
#else
  try {
    work();
  } catch (...) {
    otherwise();
  }
#endif
}

/// Calls work(). Where it throws, calls before_leaving(), and the exception goes on.
template <class Work, class BeforeLeaving>
void attempt_and_pass_on(Work&& work, [[maybe_unused]] BeforeLeaving&& before_leaving) {
#if !defined(__cpp_exceptions)
  work();
#else
  try {
    work();
  } catch (...) {
    before_leaving();
    throw;
  }
#endif
}

}  // namespace attend::inline ATTEND_TARGET::detail
