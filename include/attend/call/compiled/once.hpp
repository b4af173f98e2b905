// SPDX-License-Identifier: BSD-3-Clause
// What the target attend::compiled has compiled, once for all files that link it: the engines' loops for each element
// type over tensors and the usual stores, which no option changes; and the steps below them, which all engines
// share. What a call of a program's own then costs a compiler is its options. The lists stand in the files beside this
// one, each of which begins with the engines that it is about.
//
// The target defines ATTEND_COMPILED, with which plans include their lists; nothing else changes for
// a program. Library and program are compiled for one instruction set: where they are not, the namespaces that hold
// attend have different names (core/target.hpp), and the program does not link.
#pragma once

// The library's own files define it as `template` behind their includes, and say which of the lists they have.
#define ATTEND_COMPILED_ONCE extern template
