/* Products of integers of 16 and of 8 bits, for quantised weights. A machine has the sums of 8 codes of 16 outputs times inputs
 * of up to BLOCK_ROWS rows: add_pairs() of inputs of 16 bits, EXACT_ROWS rows at a time, and add_eight() of inputs of 8. */
#pragma once
#include "native.h"

#ifdef __aarch64__
#include "integers_neon.h"
#else
#include "integers_x86.h"
#endif

#ifndef __ARM_FEATURE_MATMUL_INT8
/* Sums are those of a row each already. */
INLINE void settle_rows(words *sums, int rows) { (void)sums, (void)rows; }
INLINE void settle_pairs(PairSums *sums, int rows) { (void)sums, (void)rows; }
#endif

#if defined(__AVX512F__)
enum { BLOCK_ROWS = MOST_REGISTER_ROWS, EXACT_ROWS = BLOCK_ROWS };
#define WITH_BLOCK_ROWS WITH_ROWS
#elif defined(__aarch64__) && !defined(__ARM_FEATURE_DOTPROD)
enum { BLOCK_ROWS = 3, EXACT_ROWS = BLOCK_ROWS }; /* with 4 gcc finds no place for them all */
#define WITH_BLOCK_ROWS(rows, CALL) \
  switch (rows) {                   \
    case 1: CALL(1); break;         \
    case 2: CALL(2); break;         \
    default: CALL(3);               \
  }
#else
#ifdef __aarch64__
enum { BLOCK_ROWS = 4, EXACT_ROWS = 2 };
#else
enum { BLOCK_ROWS = 4, EXACT_ROWS = BLOCK_ROWS };
#endif
#define WITH_BLOCK_ROWS(rows, CALL) \
  switch (rows) {                   \
    case 1: CALL(1); break;         \
    case 2: CALL(2); break;         \
    case 3: CALL(3); break;         \
    default: CALL(4);               \
  }
#endif
