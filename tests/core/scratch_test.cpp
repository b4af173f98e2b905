// SPDX-License-Identifier: BSD-3-Clause
// Working memory: blocks are aligned and apart, come back in the order of a stack, and after a warm-up nothing is
// allocated. Allocations are counted, and can be made to fail, by replacing the global operators.
#include <attend/core/scratch.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <thread>

namespace {

std::atomic<int> allocations{0};
std::atomic<int> allocations_before_failure{-1};  // -1: none fails

void* allocate(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  if (allocations_before_failure == 0) throw std::bad_alloc();
  if (allocations_before_failure > 0) --allocations_before_failure;
  void* const memory =
      std::aligned_alloc(alignment, std::max((bytes + alignment - 1) / alignment, std::size_t{1}) * alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}

// Out of line: a compiler that sees free() at the place of a delete takes it for a mistake.
[[gnu::noinline]] void give_back(void* memory) { std::free(memory); }

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { give_back(memory); }
void operator delete[](void* memory) noexcept { give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { give_back(memory); }
void operator delete[](void* memory, std::size_t) noexcept { give_back(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { give_back(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { give_back(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { give_back(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { give_back(memory); }

namespace attend {
using namespace options;
using namespace runtime;
using namespace extend;

namespace {

/// Starts each test with an arena that has nothing.
class Scratch : public testing::Test {
 protected:
  Scratch() {
    release_scratch();
    bytes_of_others_ = scratch_bytes();
  }
  ~Scratch() override { release_scratch(); }

  index_t bytes() const { return scratch_bytes() - bytes_of_others_; }

 private:
  index_t bytes_of_others_;
};

std::uintptr_t address(void const* memory) { return reinterpret_cast<std::uintptr_t>(memory); }

TEST_F(Scratch, BlocksAreAlignedAndApart) {
  struct block {
    unsigned char* from;
    index_t size;
  };
  index_t const sizes[] = {1, 63, 64, 65, 3, 1000, 7, 100000, 128, 2};
  for (int round = 0; round < 3; ++round) {
    scratch memory;
    std::vector<block> blocks;
    for (index_t size : sizes) {
      blocks.push_back({memory.allocate<unsigned char>(size), size});
      EXPECT_EQ(address(blocks.back().from) % 64, 0u) << size;
      std::fill_n(blocks.back().from, size, static_cast<unsigned char>(blocks.size()));
    }
    for (std::size_t i = 0; i < blocks.size(); ++i)
      EXPECT_EQ(std::count(blocks[i].from, blocks[i].from + blocks[i].size, static_cast<unsigned char>(i + 1)),
                blocks[i].size)
          << "block " << i << " was overwritten in round " << round;
  }
}

TEST_F(Scratch, CountsElements) {
  scratch memory;
  double* const doubles = memory.allocate<double>(100);
  std::fill_n(doubles, 100, 1.5);
  EXPECT_EQ(bytes(), 832) << "800 bytes, rounded up to whole cache lines";
  float* const floats = memory.allocate<float>(16);
  EXPECT_EQ(bytes(), 832 + 64);
  EXPECT_NE(address(floats), address(doubles));
}

TEST_F(Scratch, ABlockOfNothingIsLegal) {
  scratch memory;
  memory.allocate<float>(0);
  float* const one = memory.allocate<float>(1);
  *one = 1;
  EXPECT_EQ(address(one) % 64, 0u);
}

TEST_F(Scratch, BlocksComeBackInTheOrderOfAStack) {
  {
    scratch().allocate<char>(1 << 16);
  }
  scratch outer;
  char* const first = outer.allocate<char>(100);
  char* second;
  {
    scratch inner;
    second = inner.allocate<char>(200);
    EXPECT_EQ(second, first + 128);
    scratch innermost;
    EXPECT_EQ(innermost.allocate<char>(300), second + 256);
  }
  EXPECT_EQ(outer.allocate<char>(50), second) << "what the inner ones took is free again";
}

TEST_F(Scratch, ABlockInUseStaysWhereItIs) {
  scratch outer;
  int* const kept = outer.allocate<int>(16);
  std::fill_n(kept, 16, 42);
  for (int round = 0; round < 3; ++round) {
    scratch inner;
    for (index_t size : {1000, 50000, 3}) std::fill_n(inner.allocate<int>(size), size, -1);
  }
  EXPECT_EQ(std::count(kept, kept + 16, 42), 16);
  int* const later = outer.allocate<int>(4);
  std::fill_n(later, 4, 7);
  EXPECT_EQ(std::count(kept, kept + 16, 42), 16);
}

TEST_F(Scratch, InnerUsesTakeTheSameMemoryAgain) {
  scratch outer;
  outer.allocate<char>(64);
  index_t after_first = 0;
  for (int round = 0; round < 5; ++round) {
    {
      scratch inner;
      for (index_t size : {1000, 50000, 3}) inner.allocate<char>(size);
    }
    if (round == 0) after_first = bytes();
    EXPECT_EQ(bytes(), after_first) << round;
  }
}

TEST_F(Scratch, ChunksBecomeOneAfterTheFirstUse) {
  index_t const sizes[] = {64, 6400, 128, 64000};
  {
    scratch memory;
    for (index_t size : sizes) memory.allocate<char>(size);
  }
  index_t const after_first = bytes();
  EXPECT_EQ(after_first, 64 + 6400 + 128 + 64000);
  scratch memory;
  char* expected = memory.allocate<char>(sizes[0]);
  for (int i = 1; i < 4; ++i) {
    expected += sizes[i - 1];
    EXPECT_EQ(memory.allocate<char>(sizes[i]), expected) << "block " << i << " is not right behind the one before";
  }
  EXPECT_EQ(bytes(), after_first);
}

TEST_F(Scratch, NothingIsAllocatedAfterAWarmUp) {
  auto const use = [] {
    scratch outer;
    outer.allocate<float>(1000);
    for (index_t size : {500, 30, 7000}) {
      scratch inner;
      inner.allocate<double>(size);
      inner.allocate<char>(1);
    }
    outer.allocate<char>(1 << 17);
  };
  use();
  int const after_warm_up = allocations;
  index_t const kept = bytes();
  for (int round = 0; round < 10; ++round) use();
  EXPECT_EQ(allocations, after_warm_up);
  EXPECT_EQ(bytes(), kept);
  EXPECT_GT(after_warm_up, 0) << "allocations are not counted";
}

TEST_F(Scratch, KeepsOnlyWhatTheLargestUseNeeds) {
  for (index_t size : {100, 10000, 1000, 9000, 10000}) scratch().allocate<char>(size);
  EXPECT_LE(bytes(), 128 + 10048) << "smaller uses fit in what larger ones left";
}

TEST_F(Scratch, ReleaseGivesEverythingBack) {
  {
    scratch().allocate<char>(100000);
  }
  EXPECT_GE(bytes(), 100000);
  release_scratch();
  EXPECT_EQ(bytes(), 0);
  release_scratch();
  EXPECT_EQ(bytes(), 0);
  scratch memory;
  std::fill_n(memory.allocate<char>(1000), 1000, 'x');
  EXPECT_EQ(bytes(), 1024);
}

TEST_F(Scratch, EachThreadHasItsOwnAndGivesItBackAtItsEnd) {
  scratch memory;
  char* const mine = memory.allocate<char>(1000);
  std::thread([&] {
    scratch of_the_other;
    char* const others = of_the_other.allocate<char>(2000);
    EXPECT_TRUE(others + 2000 <= mine || mine + 1000 <= others);
    EXPECT_EQ(bytes(), 1024 + 2048);
    // Not the other thread's memory.
    release_scratch();
    EXPECT_EQ(bytes(), 1024);
  }).join();
  std::thread([] { scratch().allocate<char>(5000); }).join();
  EXPECT_EQ(bytes(), 1024);
}

TEST_F(Scratch, ATakeThatFailsLeavesTheRestUsable) {
  scratch memory;
  int* const kept = memory.allocate<int>(16);
  std::fill_n(kept, 16, 42);
  index_t const before = bytes();
  allocations_before_failure = 0;
  EXPECT_THROW(memory.allocate<char>(100000), std::bad_alloc);
  allocations_before_failure = -1;
  EXPECT_EQ(bytes(), before);
  EXPECT_EQ(std::count(kept, kept + 16, 42), 16);
  std::fill_n(memory.allocate<char>(100000), 100000, 'x');
  EXPECT_EQ(std::count(kept, kept + 16, 42), 16);
}

TEST_F(Scratch, ChunksThatCannotBecomeOneAreGivenBack) {
  {
    scratch memory;
    memory.allocate<char>(100);
    memory.allocate<char>(1000);
    allocations_before_failure = 0;
  }
  allocations_before_failure = -1;
  EXPECT_EQ(bytes(), 0);
  scratch memory;
  std::fill_n(memory.allocate<char>(1000), 1000, 'x');
  EXPECT_EQ(bytes(), 1024);
}

}  // namespace
}  // namespace attend
