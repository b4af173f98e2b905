// SPDX-License-Identifier: BSD-3-Clause
// Carries the headers that the tests share in precompiled form.
