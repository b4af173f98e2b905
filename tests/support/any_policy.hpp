// SPDX-License-Identifier: BSD-3-Clause
// Masks and scores whose kind is chosen while a test runs: so that random combinations need one instantiation of the
// engine, not one for each.
#pragma once

#include <attend/policy/mask/mask.hpp>
#include <attend/policy/score/score.hpp>
#include <functional>
#include <memory>

namespace attend::test {
using namespace extend;

class any_mask {
 public:
  using option_kind = option::mask;
  template <class T>
  using bound = std::function<typename simd::integers<T>::truth(mask_place<T> const&)>;

  template <Mask M>
    requires(!std::same_as<M, any_mask>)
  any_mask(M const& held) : held_(std::make_shared<model<M>>(held)) {}

  void check(problem_shape const& shape) const { held_->check(shape); }
  template <class T>
  key_range bounds(tile_rows<T> const& rows) const {
    return held_->bounds(rows);
  }
  template <class T>
  visibility classify(tile_rows<T> const& rows, key_range range) const {
    return held_->classify(rows, range);
  }
  template <class T>
  bound<T> bind(tile_rows<T> const& rows, key_range range) const {
    return held_->bind(rows, range);
  }

 private:
  struct concept_of_mask {
    virtual ~concept_of_mask() = default;
    virtual void check(problem_shape const&) const = 0;
    virtual key_range bounds(tile_rows<float> const&) const = 0;
    virtual key_range bounds(tile_rows<double> const&) const = 0;
    virtual visibility classify(tile_rows<float> const&, key_range) const = 0;
    virtual visibility classify(tile_rows<double> const&, key_range) const = 0;
    virtual bound<float> bind(tile_rows<float> const&, key_range) const = 0;
    virtual bound<double> bind(tile_rows<double> const&, key_range) const = 0;
  };
  template <class M>
  struct model final : concept_of_mask {
    explicit model(M const& mask) : held(mask) {}
    void check(problem_shape const& shape) const override { held.check(shape); }
    key_range bounds(tile_rows<float> const& rows) const override { return held.bounds(rows); }
    key_range bounds(tile_rows<double> const& rows) const override { return held.bounds(rows); }
    visibility classify(tile_rows<float> const& rows, key_range range) const override {
      return held.classify(rows, range);
    }
    visibility classify(tile_rows<double> const& rows, key_range range) const override {
      return held.classify(rows, range);
    }
    bound<float> bind(tile_rows<float> const& rows, key_range range) const override {
      return attend::detail::bind_mask(held, rows, range);
    }
    bound<double> bind(tile_rows<double> const& rows, key_range range) const override {
      return attend::detail::bind_mask(held, rows, range);
    }
    M held;
  };
  std::shared_ptr<concept_of_mask const> held_;
};

class any_score {
 public:
  using option_kind = option::score;
  static constexpr bool may_hide = true;
  template <class T>
  using bound = std::function<simd::vector<T>(simd::vector<T> const&, score_place<T> const&)>;

  template <Score S>
    requires(!std::same_as<S, any_score>)
  any_score(S const& held) : held_(std::make_shared<model<S>>(held)) {}

  void check(problem_shape const& shape) const { held_->check(shape); }
  template <class T>
  bound<T> bind(tile_rows<T> const& rows, key_range range) const {
    return held_->bind(rows, range);
  }

 private:
  struct concept_of_score {
    virtual ~concept_of_score() = default;
    virtual void check(problem_shape const&) const = 0;
    virtual bound<float> bind(tile_rows<float> const&, key_range) const = 0;
    virtual bound<double> bind(tile_rows<double> const&, key_range) const = 0;
  };
  template <class S>
  struct model final : concept_of_score {
    explicit model(S const& score) : held(score) {}
    void check(problem_shape const& shape) const override { held.check(shape); }
    bound<float> bind(tile_rows<float> const& rows, key_range range) const override {
      return attend::detail::bind_score(held, rows, range);
    }
    bound<double> bind(tile_rows<double> const& rows, key_range range) const override {
      return attend::detail::bind_score(held, rows, range);
    }
    S held;
  };
  std::shared_ptr<concept_of_score const> held_;
};

}  // namespace attend::test
