# SPDX-License-Identifier: BSD-3-Clause
"""A package for Conan 2, whose users find attend as an installed one: find_package(attend), attend::attend.

    conan create . -s compiler.cppstd=20
"""

import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain
from conan.tools.files import copy, load


class AttendConan(ConanFile):
    name = "attend"
    description = "Attention kernels for CPUs, header-only"
    license = "BSD-3-Clause"
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    exports = "include/attend/version.hpp"
    exports_sources = "CMakeLists.txt", "LICENSE", "cmake/*", "include/*"
    no_copy_source = True

    def set_version(self):
        header = load(self, f"{self.recipe_folder}/include/attend/version.hpp")
        numbers = re.findall(r"^#define ATTEND_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", header, re.MULTILINE)
        self.version = ".".join(numbers)

    def requirements(self):
        self.requires("eigen/[>=3.4]", transitive_headers=True)
        self.requires("xsimd/[>=8.1]", transitive_headers=True)

    def package_id(self):
        self.info.clear()

    def validate(self):
        check_min_cppstd(self, 20)

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        for programs in "TESTS", "BENCHMARKS", "EXAMPLES":
            toolchain.cache_variables[f"ATTEND_BUILD_{programs}"] = False
        toolchain.generate()

    def package(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.install()
        copy(self, "LICENSE", self.source_folder, f"{self.package_folder}/licenses")

    def package_info(self):
        # The package's own configuration, which offers attend::native and the functions for several processors too.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = ["share/cmake/attend"]
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
