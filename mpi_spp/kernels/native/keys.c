/* Copies keys between panels and columns [groups, size, count]: what travels between ranks knows no panels. */
#include "cache.h"

enum { FEW_NUMBERS = 1 << 16 }; /* so few are copied sooner than other threads wake up */

/* Where the keys of some positions are: those of one group stand `keys` numbers after those of the one before. */
typedef struct {
  char *panels, *columns;
  index_t keys, size, start, count, bytes; /* bytes: of a number, 1 or 2 */
} Copy;

/* Two numbers of up to PANEL keys: in columns two lines, in the panel [PANEL, 2]. The mask tells which keys. */
typedef void (*CopyPair)(char *panel, char *even, char *odd, __mmask32 mask, index_t bytes);

INLINE void take_pair(char *panel, char *even, char *odd, __mmask32 mask, index_t bytes) {
  __m512i left = _mm512_loadu_si512(panel);
  if (bytes == 1) {
    _mm256_mask_storeu_epi8(even, mask, _mm512_cvtepi16_epi8(left));
    _mm256_mask_storeu_epi8(odd, mask, _mm512_cvtepi16_epi8(_mm512_srli_epi16(left, 8)));
    return;
  }
  __m512i right = _mm512_loadu_si512(panel + sizeof(left)), high = _mm512_set1_epi32(16);
  __m256i evens[2] = {_mm512_cvtepi32_epi16(left), _mm512_cvtepi32_epi16(right)};
  __m256i odds[2] = {_mm512_cvtepi32_epi16(_mm512_srlv_epi32(left, high)),
                     _mm512_cvtepi32_epi16(_mm512_srlv_epi32(right, high))};
  _mm512_mask_storeu_epi16(even, mask, _mm512_inserti64x4(_mm512_castsi256_si512(evens[0]), evens[1], 1));
  _mm512_mask_storeu_epi16(odd, mask, _mm512_inserti64x4(_mm512_castsi256_si512(odds[0]), odds[1], 1));
}

INLINE void put_pair(char *panel, char *even, char *odd, __mmask32 mask, index_t bytes) {
  if (bytes == 1) {
    __m512i evens = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, even));
    __m512i odds = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, odd));
    _mm512_mask_storeu_epi16(panel, mask, _mm512_or_si512(evens, _mm512_slli_epi16(odds, 8)));
    return;
  }
  __m512i pairs[2];
  interleave(_mm512_maskz_loadu_epi16(mask, even), _mm512_maskz_loadu_epi16(mask, odd), pairs);
  for (int half = 0; half < 2; half++)
    _mm512_mask_storeu_epi32(panel + half * sizeof(*pairs), (__mmask16)(mask >> (16 * half)), pairs[half]);
}

/* The keys of one group that lie in the panel of position `at`. */
INLINE void copy_panel(const Copy *copy, index_t group, index_t at, CopyPair copy_pair, index_t bytes) {
  index_t first = larger(copy->start - at, 0), stop = smaller(copy->start + copy->count - at, PANEL);
  __mmask32 mask = (__mmask32)(((uint64_t)1 << stop) - ((uint64_t)1 << first));
  char *panel = copy->panels + (group * copy->keys + at * copy->size) * bytes;
  char *line = copy->columns + (group * copy->size * copy->count + at - copy->start) * bytes;
  for (index_t d = 0; d < copy->size; d += 2, line += 2 * copy->count * bytes)
    copy_pair(panel + d * PANEL * bytes, line, line + copy->count * bytes, mask, bytes);
}

INLINE void copy_panels(const Copy *copy, index_t groups, CopyPair copy_pair) {
  index_t begin = copy->start / PANEL, stop = parts_of(copy->start + copy->count, PANEL);
#pragma omp parallel for collapse(2) schedule(static) if (groups * copy->size * copy->count > FEW_NUMBERS)
  for (index_t group = 0; group < groups; group++)
    for (index_t panel = begin; panel < stop; panel++)
      if (copy->bytes == 1)
        copy_panel(copy, group, panel * PANEL, copy_pair, 1);
      else
        copy_panel(copy, group, panel * PANEL, copy_pair, 2);
}

/* panels [groups, panels of a group, size / 2, PANEL, 2]; columns [groups, size, count], of the positions from `start` on;
 * numbers of so many bytes, 1 or 2. */
void take_keys(char *panels, char *columns, index_t groups, index_t panels_of_group, index_t size, index_t start,
               index_t count, index_t bytes) {
  Copy copy = {panels, columns, panels_of_group * PANEL * size, size, start, count, bytes};
  copy_panels(&copy, groups, take_pair);
}

/* The other way; keys of other positions stay as they are. */
void put_keys(char *panels, char *columns, index_t groups, index_t panels_of_group, index_t size, index_t start,
              index_t count, index_t bytes) {
  Copy copy = {panels, columns, panels_of_group * PANEL * size, size, start, count, bytes};
  copy_panels(&copy, groups, put_pair);
}
