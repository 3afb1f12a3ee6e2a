/* What the native kernels share. They need AVX-512 with its byte, word, vector-length and bfloat16 extensions;
 * library.py loads them only where the CPU has these. Threads are those of the OpenMP that torch has brought along.
 *
 * Every row of a result is computed by the same operations in the same order, whatever other rows are computed with it:
 * any chunk size and any number of ranks give the same bits. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bfloat16;
typedef int64_t index_t;

/* A tile is TILE_ROWS rows of PANEL columns: 24 of the 32 registers. */
enum { PANEL = 32, TILE_ROWS = 12 };

/* What becomes of a product. SILU_MUL: the left half of each panel is the gate of its right half. */
enum { STORE_FLOAT32, STORE_BFLOAT16, ADD_FLOAT32, SILU_MUL };

/* The weights of a product, [out, in], as linear.c lays them out, and a bias [panels, PANEL] or NULL. */
typedef struct {
  const void *weight;
  const float *bias;
  index_t out, in, bits, group; /* bits: 16, 8 or 4 */
} Matrix;

/* A layer's cache in bfloat16: values [groups, capacity, size] and keys in panels [groups, parts_of(capacity, PANEL),
 * size / 2, PANEL, 2], the right-hand matrices of tile(). With scales [groups, capacity] they are int8 codes, and a head
 * at a position is its scale times its codes. */
typedef struct {
  void *keys, *values;
  float *key_scales, *value_scales; /* both or neither NULL */
  index_t capacity;
} Cache;

/* Documented where they are defined. */
int linear(const Matrix *matrix, const bfloat16 *x, void *y, index_t rows, int store);
void rms_norm(const float *x, const float *weight, bfloat16 *y, index_t rows, index_t size, float eps);
void rotate_and_store(const bfloat16 *qkv, const float *cosines, const float *sines, const float *query_norm,
                      const float *key_norm, float eps, float scale, bfloat16 *queries, const Cache *cache,
                      index_t tokens, index_t groups, index_t heads, index_t size, index_t start);
void take_keys(char *panels, char *columns, index_t groups, index_t panels_of_group, index_t size, index_t start,
               index_t count, index_t bytes);
void put_keys(char *panels, char *columns, index_t groups, index_t panels_of_group, index_t size, index_t start,
              index_t count, index_t bytes);
int attend(const bfloat16 *queries, const Cache *cache, bfloat16 *to, index_t tokens, index_t groups, index_t heads,
           index_t size, index_t start, index_t window);

INLINE index_t smaller(index_t a, index_t b) { return a < b ? a : b; }
INLINE index_t larger(index_t a, index_t b) { return a > b ? a : b; }
INLINE index_t parts_of(index_t count, index_t size) { return (count + size - 1) / size; }

INLINE index_t thread_number(void) { return omp_get_thread_num(); }
INLINE index_t most_threads(void) { return omp_get_max_threads(); }

INLINE float from_bfloat16(bfloat16 value) {
  uint32_t bits = (uint32_t)value << 16;
  float result;
  memcpy(&result, &bits, 4);
  return result;
}

/* Rounds to nearest, ties to even. */
INLINE bfloat16 to_bfloat16(float value) {
  return (bfloat16)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(value)), 0);
}

/* The first `count` lanes of 16; `count` may be negative. */
INLINE __mmask16 lanes(index_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

INLINE __m512 load_bfloat16(const bfloat16 *from, __mmask16 mask) {
  __m256i bits = _mm256_maskz_loadu_epi16(mask, from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

INLINE void store_bfloat16(bfloat16 *to, __mmask16 mask, __m512 values) {
  _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(values));
}

/* e^x for x <= 0, to 2 units in the last place; Cephes' polynomial. */
INLINE __m512 exp16(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-104.0f));
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

/* x / (1 + e^-x) without overflow. */
INLINE __m512 silu16(__m512 x) {
  __m512 e = exp16(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(x))), one = _mm512_set1_ps(1.0f);
  __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  return _mm512_div_ps(_mm512_mul_ps(x, _mm512_mask_mov_ps(one, negative, e)), _mm512_add_ps(one, e));
}

/* c [rows, PANEL] (+)= a [rows, 2 * pairs] b, where b [pairs, PANEL, 2] holds pairs of inputs side by side. */
INLINE void tile_of(int rows, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs, float *c,
                    index_t c_stride, int first) {
  __m512 sums[TILE_ROWS][2];
  for (int r = 0; r < rows; r++)
    for (int half = 0; half < 2; half++)
      sums[r][half] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(c + r * c_stride + 16 * half);
  for (index_t k = 0; k < pairs; k++) {
    __m512bh left = (__m512bh)_mm512_loadu_si512(b + 64 * k), right = (__m512bh)_mm512_loadu_si512(b + 64 * k + 32);
    for (int r = 0; r < rows; r++) {
      int pair;
      memcpy(&pair, a + r * stride + 2 * k, 4);
      __m512bh inputs = (__m512bh)_mm512_set1_epi32(pair);
      sums[r][0] = _mm512_dpbf16_ps(sums[r][0], inputs, left);
      sums[r][1] = _mm512_dpbf16_ps(sums[r][1], inputs, right);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int half = 0; half < 2; half++) _mm512_storeu_ps(c + r * c_stride + 16 * half, sums[r][half]);
}

/* CALL(R) with the constant R that `rows`, up to TILE_ROWS, is. */
#define WITH_ROWS(rows, CALL) \
  switch (rows) {             \
    case 1: CALL(1); break;   \
    case 2: CALL(2); break;   \
    case 3: CALL(3); break;   \
    case 4: CALL(4); break;   \
    case 5: CALL(5); break;   \
    case 6: CALL(6); break;   \
    case 7: CALL(7); break;   \
    case 8: CALL(8); break;   \
    case 9: CALL(9); break;   \
    case 10: CALL(10); break; \
    case 11: CALL(11); break; \
    default: CALL(12);        \
  }

/* Not inlined: a caller's constants would take registers that the sums need (5% of a product). */
static __attribute__((noinline)) void tile(index_t rows, const bfloat16 *a, index_t stride, const bfloat16 *b,
                                           index_t pairs, float *c, index_t c_stride, int first) {
#define CALL(R) tile_of(R, a, stride, b, pairs, c, c_stride, first)
  WITH_ROWS(rows, CALL)
#undef CALL
}
