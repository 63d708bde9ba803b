// Counts what passed and prints what didn't.
#pragma once

#include <cmath>
#include <cstdio>

#include "table.h"

inline int passed = 0, failed = 0;

inline void check(bool ok, const char* table, const char* what, double got, double expected) {
  ok ? ++passed : ++failed;
  if (!ok) std::printf("FAILED %s: %s gave %.9g, expected %.9g\n", table, what, got, expected);
}

inline void check_close(const char* table, const char* what, double got, double expected, double tolerance) {
  const bool same = (std::isnan(got) && std::isnan(expected)) || got == expected || std::fabs(got - expected) <= tolerance;
  check(same, table, what, got, expected);
}

void test_logprob_gradients(const rrm::Table& table);
void test_advantages(const rrm::Table& table);
void test_losses(const rrm::Table& table);
void test_tournaments(const rrm::Table& table);
void test_tournaments_ratings(const rrm::Table& table);
void test_votes(const rrm::Table& table);
