// SPDX-License-Identifier: BSD-3-Clause
// The same program, compiled for another instruction set than the library that it links.
#include "../main.cpp"
