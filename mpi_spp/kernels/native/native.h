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

/* Sums of MOST_REGISTER_ROWS rows of PANEL columns fill 24 of the 32 registers. */
enum { PANEL = 32, MOST_REGISTER_ROWS = 12 };

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
int allow_tiles(void);
const char *compiler(void);
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

/* CALL(R) with the constant R that `rows`, up to MOST_REGISTER_ROWS, is. */
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
