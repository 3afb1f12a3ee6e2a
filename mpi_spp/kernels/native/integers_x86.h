/* integers.h for x86, whose instructions multiply integers of 16 bits in pairs and those of 8 bits in fours. */
#pragma once
#include "native.h"

#ifdef __AVX512F__
#include "integers_avx512.h"
#else
#include "integers_avx2.h"
#endif

/* The inputs of 16 columns in the order in which nibbles of 64 bytes of codes come: of 8 inputs 0 4 1 5, then 2 6 3 7. */
INLINE void store_in_order_of_nibbles(int8_t *codes) {
  __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
  _mm_storeu_si128((__m128i *)codes, _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)codes), order));
}

/* Sums of products of inputs of 16 bits. */
typedef words PairSums;

INLINE PairSums no_pairs(void) { return no_words(); }
INLINE floats floats_of_pairs(int bits, PairSums sums) {
  (void)bits;
  return to_floats(sums);
}

/* A pair of codes, as 16-bit integers, of each of 16 outputs: pair `pair` of those at `from`. */
INLINE words pair_of_codes(int bits, const uint8_t *from, int pair) {
  return bits == 4 ? nibbles_of_integers(from, 4 * pair) : pairs_of_codes(from + 32 * pair);
}

/* Four bytes of each of up to 12 rows, `width` bytes apart. The compiler forgets what it knows of four of them. Else it
 * would keep a place for each row, some of them in memory, where these and the width lead to all. */
typedef struct {
  const char *first, *fourth, *seventh, *tenth;
} Places;

INLINE Places places_of(const void *x, index_t width) {
  return (Places){x, (const char *)x + 3 * width, (const char *)x + 6 * width, (const char *)x + 9 * width};
}
/* Those `bytes` behind. */
INLINE Places behind_places(Places at, index_t bytes, int rows) {
  Places places = {at.first + bytes, at.fourth + bytes, at.seventh + bytes, at.tenth + bytes};
  if (rows > 3) __asm__("" : "+r"(places.first), "+r"(places.fourth));
  if (rows > 6) __asm__("" : "+r"(places.seventh), "+r"(places.tenth));
  return places;
}
INLINE words inputs_at(Places places, index_t width, int r, int at) {
  const char *from = r < 6 ? (r < 3 ? places.first : places.fourth) : r < 9 ? places.seventh : places.tenth;
  int inputs;
  memcpy(&inputs, from + r % 3 * width + at, 4);
  return all_words(inputs);
}

/* sums += four pairs of codes times the inputs of each row, `width` bytes apart. */
INLINE void add_pairs(int bits, const uint8_t *from, Places places, index_t width, words *sums, int rows) {
#pragma GCC unroll 4
  for (int pair = 0; pair < 4; pair++) {
    words codes = pair_of_codes(bits, from, pair);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
      sums[r] = add_pair_products(sums[r], codes, inputs_at(places, width, r, 4 * pair));
      KEEP_ORDER(sums[r]);
    }
  }
}

/* sums += 8 codes of each of 16 outputs times the inputs of each row, `width` apart. */
INLINE void add_eight(const uint8_t *from, Places places, index_t width, words *sums, int rows) {
#pragma GCC unroll 2
  for (int part = 0; part < 2; part++) {
    words codes = part ? high_nibbles(load_words(from)) : low_nibbles(load_words(from));
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
      sums[r] = add_dots(sums[r], codes, inputs_at(places, width, r, 4 * part));
      KEEP_ORDER(sums[r]);
    }
    __asm__("" : "+r"(from)); /* they are loaded again: to keep them would take a register from a sum */
  }
}
