// SPDX-License-Identifier: BSD-3-Clause
// The library's version, for the preprocessor: the build reads it here. Until 1.0, a new minor version may change what
// programs must write, and a new patch version does not. CHANGELOG.md says what changed.
#pragma once

#define ATTEND_VERSION_MAJOR 0
#define ATTEND_VERSION_MINOR 1
#define ATTEND_VERSION_PATCH 0

/// The version as one number that can be compared: 1.2.3 is 10203.
///
///     static_assert(ATTEND_VERSION >= 100, "attend 0.1.0 or newer is needed");
#define ATTEND_VERSION (ATTEND_VERSION_MAJOR * 10000 + ATTEND_VERSION_MINOR * 100 + ATTEND_VERSION_PATCH)
