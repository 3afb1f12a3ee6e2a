/* The product that all others are made of:
 *
 * tile(): c [rows, PANEL] (+)= a [rows, 2 * pairs] b, where b [pairs, PANEL, 2] holds pairs of inputs in bfloat16 side by
 * side, for up to TILE_ROWS rows; `stride` and `c_stride` are those of the rows of a and c.
 * tiles(): the same for any number of rows, and c_stride PANEL. from_memory: b is followed by what comes next.
 * Calls lie between begin_tiles() and end_tiles() of their thread.
 *
 * A machine has its own way, and a `number` in which it takes a: store_numbers() makes 16 of them, and as_numbers() all of
 * x [rows, size] in bfloat16, in `room` for rows * (size + PADDING) where they cannot stay as they are; rows of the result
 * are size + padding apart. Ways round differently, so all rows of a job's product go the same one. */
#pragma once
#include "native.h"

#if defined(__AMX_BF16__)
#include "tile_amx.h"
#elif defined(__AVX512BF16__)
#include "tile_bfloat16.h"
#elif defined(__AVX512F__)
#include "tile_avx512.h"
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "tile_bfdot.h"
#elif defined(__aarch64__)
#include "tile_neon.h"
#else
#include "tile_float32.h"
#endif
