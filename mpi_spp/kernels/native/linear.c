/* Products of rows with a weight matrix, few rows or many, with weights in bfloat16 or quantised.
 *
 * Weights lie in panels of 32 outputs. In bfloat16 a panel is [in / 2, 32, 2]. Quantised, a panel is two blocks of 16
 * outputs, each [groups] of codes followed by 16 scales and, with 4 bits, 16 minima in half precision:
 * w = scale * code + minimum. Codes of 8 bits are signed, [group, 16]; of 4 bits they are nibbles of 16-bit words,
 * [group / 8, 16, 2], and input 8j + 2p + h of an output is nibble p of its word h. */
#include "tile.h"

INLINE index_t groups_of(const Matrix *w) { return parts_of(w->in, w->group); }

INLINE index_t block_bytes(const Matrix *w) { return w->bits == 4 ? w->group * 8 + 64 : w->group * 16 + 32; }

INLINE __m512 load_half(const uint8_t *from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }

/* The bfloat16 values 0 to 15, twice. */
INLINE __m512i nibble_table(void) {
  __m512 values = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  __m256i once = (__m256i)_mm512_cvtneps_pbh(values);
  return _mm512_inserti64x4(_mm512_castsi256_si512(once), once, 1);
}

/* The pairs p of inputs in 64 bytes of 4-bit codes, for 16 outputs. The table looks at 5 bits, of which 4 count. */
INLINE __m512i nibbles(__m512i codes, int p, __m512i table) {
  return _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4 * p), table);
}

/* Up to MOST_REGISTER_ROWS rows with one block of 16 outputs; helper: the sums of the inputs of each group. */
INLINE void int4_block(const Matrix *w, const uint8_t *from, const bfloat16 *x, const float *helper, float *c, int rows) {
  index_t groups = groups_of(w), width = groups * w->group;
  __m512i table = nibble_table();
  __m512 totals[MOST_REGISTER_ROWS];
  for (int r = 0; r < rows; r++) totals[r] = _mm512_setzero_ps();
  for (index_t g = 0; g < groups; g++, from += w->group * 8 + 64) {
    __m512 sums[MOST_REGISTER_ROWS];
    for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
    for (index_t k = 0; k < w->group; k += 8) {
      __m512i codes = _mm512_loadu_si512(from + k * 8);
#pragma GCC unroll 4
      for (int p = 0; p < 4; p++) {
        __m512bh weights = (__m512bh)nibbles(codes, p, table);
        for (int r = 0; r < rows; r++) {
          int pair;
          memcpy(&pair, x + r * width + g * w->group + k + 2 * p, 4);
          sums[r] = _mm512_dpbf16_ps(sums[r], weights, (__m512bh)_mm512_set1_epi32(pair));
        }
      }
    }
    __m512 scales = load_half(from + w->group * 8), minima = load_half(from + w->group * 8 + 32);
    for (int r = 0; r < rows; r++) {
      totals[r] = _mm512_fmadd_ps(scales, sums[r], totals[r]);
      totals[r] = _mm512_fmadd_ps(minima, _mm512_set1_ps(helper[r * groups + g]), totals[r]);
    }
  }
  for (int r = 0; r < rows; r++) _mm512_storeu_ps(c + r * PANEL, totals[r]);
}

/* The same for 8 bits; helper: the inputs in float32. */
INLINE void int8_block(const Matrix *w, const uint8_t *from, const float *helper, float *c, int rows) {
  index_t groups = groups_of(w), width = groups * w->group;
  __m512 totals[MOST_REGISTER_ROWS];
  for (int r = 0; r < rows; r++) totals[r] = _mm512_setzero_ps();
  for (index_t g = 0; g < groups; g++, from += w->group * 16 + 32) {
    __m512 sums[MOST_REGISTER_ROWS];
    for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
    for (index_t k = 0; k < w->group; k++) {
      __m512i codes = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(from + k * 16)));
      __m512 weights = _mm512_cvtepi32_ps(codes);
      for (int r = 0; r < rows; r++)
        sums[r] = _mm512_fmadd_ps(weights, _mm512_set1_ps(helper[r * width + g * w->group + k]), sums[r]);
    }
    __m512 scales = load_half(from + w->group * 16);
    for (int r = 0; r < rows; r++) totals[r] = _mm512_fmadd_ps(scales, sums[r], totals[r]);
  }
  for (int r = 0; r < rows; r++) _mm512_storeu_ps(c + r * PANEL, totals[r]);
}

/* c [rows, PANEL] of one quantised panel, for up to MOST_REGISTER_ROWS rows of padded inputs. */
static void few_rows(const Matrix *w, const uint8_t *panel, const bfloat16 *x, const float *helper, float *c,
                     index_t rows) {
  for (int half = 0; half < 2; half++) {
    const uint8_t *from = panel + half * groups_of(w) * block_bytes(w);
    float *to = c + 16 * half;
    if (w->bits == 4) {
#define CALL(R) int4_block(w, from, x, helper, to, R)
      WITH_ROWS(rows, CALL)
#undef CALL
    } else {
#define CALL(R) int8_block(w, from, helper, to, R)
      WITH_ROWS(rows, CALL)
#undef CALL
    }
  }
}

/* Pairs [first, first + count) of a quantised panel as bfloat16 [count, PANEL, 2], rounded. */
static void dequantize(const Matrix *w, const uint8_t *panel, index_t first, index_t count, bfloat16 *to) {
  __m512i low = _mm512_set1_epi32(15);
  for (int half = 0; half < 2; half++)
    for (index_t pair = first; pair < first + count; pair++) {
      index_t g = 2 * pair / w->group, k = 2 * pair % w->group;
      const uint8_t *from = panel + (half * groups_of(w) + g) * block_bytes(w);
      __m512i even, odd;
      __m512 scales, minima = _mm512_setzero_ps();
      if (w->bits == 4) {
        __m512i codes = _mm512_srl_epi32(_mm512_loadu_si512(from + k / 8 * 64), _mm_cvtsi32_si128(k % 8 / 2 * 4));
        even = _mm512_and_si512(codes, low);
        odd = _mm512_and_si512(_mm512_srli_epi32(codes, 16), low);
        scales = load_half(from + w->group * 8);
        minima = load_half(from + w->group * 8 + 32);
      } else {
        even = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(from + k * 16)));
        odd = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(from + k * 16 + 16)));
        scales = load_half(from + w->group * 16);
      }
      __m512i evens = _mm512_cvtepu16_epi32(
          (__m256i)_mm512_cvtneps_pbh(_mm512_fmadd_ps(_mm512_cvtepi32_ps(even), scales, minima)));
      __m512i odds = _mm512_cvtepu16_epi32(
          (__m256i)_mm512_cvtneps_pbh(_mm512_fmadd_ps(_mm512_cvtepi32_ps(odd), scales, minima)));
      _mm512_storeu_si512(to + (pair - first) * 64 + half * 32, _mm512_or_si512(evens, _mm512_slli_epi32(odds, 16)));
    }
}

/* c [rows, PANEL] of one panel, for any number of rows. */
static void many_rows(const Matrix *w, const uint8_t *panel, const bfloat16 *x, float *c, index_t rows) {
  bfloat16 dequantized[w->bits == 16 ? 1 : PAIR_BLOCK * 64];
  for (index_t first = 0; first < w->in / 2; first += PAIR_BLOCK) {
    index_t count = smaller(PAIR_BLOCK, w->in / 2 - first);
    const bfloat16 *b = (const bfloat16 *)panel + first * 64;
    if (w->bits != 16) {
      dequantize(w, panel, first, count, dequantized);
      b = dequantized;
    }
    tiles(rows, x + 2 * first, w->in, b, count, c, first == 0, w->bits == 16);
  }
}

/* Hand c [rows, PANEL], the product of panel `panel`, over to y [rows, outputs]. */
static void finish(const float *c, const float *bias, void *y, index_t rows, index_t out, index_t panel, int store) {
  index_t width = store == SILU_MUL ? out / 2 : out, column = panel * (store == SILU_MUL ? 16 : PANEL);
  for (int half = 0; half < 2; half++) {
    __mmask16 mask = lanes(width - column - 16 * half);
    __m512 shift = bias ? _mm512_loadu_ps(bias + panel * PANEL + 16 * half) : _mm512_setzero_ps();
    for (index_t r = 0; r < rows; r++) {
      index_t at = r * width + column + 16 * half;
      __m512 value = _mm512_add_ps(_mm512_loadu_ps(c + r * PANEL + 16 * half), shift);
      if (store == STORE_FLOAT32)
        _mm512_mask_storeu_ps((float *)y + at, mask, value);
      else if (store == ADD_FLOAT32)
        _mm512_mask_storeu_ps((float *)y + at, mask,
                              _mm512_add_ps(_mm512_maskz_loadu_ps(mask, (float *)y + at), value));
      else if (store == STORE_BFLOAT16)
        store_bfloat16((bfloat16 *)y + at, mask, value);
      else if (half == 0)
        _mm512_storeu_ps((float *)c + r * PANEL, silu16(value));
      else
        store_bfloat16((bfloat16 *)y + at - 16, lanes(width - column),
                       _mm512_mul_ps(_mm512_loadu_ps(c + r * PANEL), value));
    }
  }
}

/* x [rows, in] padded with zeros to whole groups, and what the kernels for few rows want besides. */
static void prepare(const Matrix *w, const bfloat16 *x, bfloat16 *padded, float *helper, index_t rows) {
  index_t groups = groups_of(w), width = groups * w->group;
  for (index_t r = 0; r < rows; r++) {
    memcpy(padded + r * width, x + r * w->in, w->in * 2);
    memset(padded + r * width + w->in, 0, (width - w->in) * 2);
    for (index_t g = 0; g < groups; g++) {
      __m512 sum = _mm512_setzero_ps();
      for (index_t k = r * width + g * w->group; k < r * width + (g + 1) * w->group; k += 16) {
        __m512 values = load_bfloat16(padded + k, 0xffff);
        sum = _mm512_add_ps(sum, values);
        if (w->bits == 8) _mm512_storeu_ps(helper + k, values);
      }
      if (w->bits == 4) helper[r * groups + g] = _mm512_reduce_add_ps(sum);
    }
  }
}

/* y = x W^T + bias: x [rows, in], y [rows, out], or [rows, out / 2] with SILU_MUL. `in` is even, `group` a multiple of 16.
 * Returns 0, or 1 when there is no memory. */
int linear(const Matrix *w, const bfloat16 *x, void *y, index_t rows, int store) {
  index_t panel_bytes = w->bits == 16 ? w->in * PANEL * 2 : 2 * groups_of(w) * block_bytes(w);
  int few = w->bits != 16 && rows <= MOST_REGISTER_ROWS;
  index_t width = few ? groups_of(w) * w->group : 0, line = store == SILU_MUL ? w->out / 2 : w->out;
  line *= store == STORE_BFLOAT16 || store == SILU_MUL ? sizeof(bfloat16) : sizeof(float);
  bfloat16 *padded = malloc(rows * width * 6 + 1);
  if (!padded) return 1;
  float *helper = (float *)(padded + rows * width);
  if (few) prepare(w, x, padded, helper, rows);
  index_t blocks = parts_of(rows, ROW_BLOCK), panels = parts_of(w->out, PANEL);
#pragma omp parallel
  {
    begin_tiles();
#pragma omp for schedule(static)
    for (index_t task = 0; task < blocks * panels; task++) {
      index_t panel = task % panels, row = task / panels * ROW_BLOCK, count = smaller(ROW_BLOCK, rows - row);
      const uint8_t *from = (const uint8_t *)w->weight + panel * panel_bytes;
      float c[ROW_BLOCK * PANEL];
      if (few)
        few_rows(w, from, padded, helper, c, rows);
      else
        many_rows(w, from, x + row * w->in, c, count);
      finish(c, w->bias, (char *)y + row * line, count, w->out, panel, store);
    }
    end_tiles();
  }
  free(padded);
  return 0;
}

/* Lays the rows of a matrix [out, in] in bfloat16 out as panels; with `alternate` a panel takes 16 rows of each half of the
 * matrix (gate and up). Rows that are missing in a panel are 0. `in` is even. */
void pack_panels(const bfloat16 *rows, bfloat16 *to, index_t out, index_t in, int alternate) {
  index_t half = alternate ? out / 2 : 0, step = alternate ? 16 : PANEL, pairs = in / 2;
#pragma omp parallel for schedule(static)
  for (index_t panel = 0; panel < parts_of(out, PANEL); panel++)
    for (index_t first = 0; first < pairs; first += 16) {
      uint32_t tile[PANEL][16];
      index_t count = smaller(16, pairs - first);
      for (index_t lane = 0; lane < PANEL; lane++) {
        int is_up = alternate && lane >= 16;
        index_t row = panel * step + (is_up ? lane - 16 : lane);
        if (row < (alternate ? half : out))
          memcpy(tile[lane], rows + (row + (is_up ? half : 0)) * in + 2 * first, count * 4);
        else
          memset(tile[lane], 0, sizeof tile[lane]);
      }
      uint32_t *line = (uint32_t *)to + (panel * pairs + first) * PANEL;
      for (index_t pair = 0; pair < count; pair++)
        for (index_t lane = 0; lane < PANEL; lane++) line[pair * PANEL + lane] = tile[lane][pair];
    }
}
