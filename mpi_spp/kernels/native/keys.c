/* Copies keys between panels and columns [groups, size, count]: what travels between ranks knows no panels. */
#include "cache.h"

enum { FEW_NUMBERS = 1 << 16 }; /* so few are copied sooner than other threads wake up */

/* Where the keys of some positions are: those of one group stand `keys` numbers after those of the one before. */
typedef struct {
  char *panels, *columns;
  index_t keys, size, start, count, bytes; /* bytes: of a number, 1 or those of an element */
} Copy;

/* Two numbers of keys [first, stop) of PANEL: in columns two lines, in the panel the same, or [PANEL, 2]. */
typedef void (*CopyPair)(char *panel, char *even, char *odd, index_t first, index_t stop, index_t bytes);

#if defined(FLOAT32_ELEMENTS) || defined(FLOAT16_ELEMENTS)

INLINE void take_pair(char *panel, char *even, char *odd, index_t first, index_t stop, index_t bytes) {
  memcpy(even + first * bytes, panel + first * bytes, (stop - first) * bytes);
  memcpy(odd + first * bytes, panel + (PANEL + first) * bytes, (stop - first) * bytes);
}

INLINE void put_pair(char *panel, char *even, char *odd, index_t first, index_t stop, index_t bytes) {
  memcpy(panel + first * bytes, even + first * bytes, (stop - first) * bytes);
  memcpy(panel + (PANEL + first) * bytes, odd + first * bytes, (stop - first) * bytes);
}

#else

INLINE void take_pair(char *panel, char *even, char *odd, index_t first, index_t stop, index_t bytes) {
  words left = load_words(panel), evens, odds;
  if (bytes == 1)
    separate_bytes(left, &evens, &odds);
  else
    separate(left, load_words(panel + sizeof(words)), &evens, &odds);
  store_between(even, evens, first * bytes, stop * bytes);
  store_between(odd, odds, first * bytes, stop * bytes);
}

INLINE void put_pair(char *panel, char *even, char *odd, index_t first, index_t stop, index_t bytes) {
  words evens = load_between(even, first * bytes, stop * bytes), odds = load_between(odd, first * bytes, stop * bytes);
  if (bytes == 1) {
    store_between(panel, interleave_bytes(evens, odds), 2 * first, 2 * stop);
    return;
  }
  words pairs[2];
  interleave(evens, odds, pairs);
  store_between(panel, pairs[0], 4 * first, 4 * stop);
  store_between(panel + sizeof(words), pairs[1], 4 * first - 64, 4 * stop - 64);
}

#endif

INLINE index_t panels_to_copy(const Copy *copy) {
  return parts_of(copy->start + copy->count, PANEL) - copy->start / PANEL;
}

/* The keys of one group that lie in the panel of position `at`. */
INLINE void copy_panel(const Copy *copy, index_t group, index_t at, CopyPair copy_pair, index_t bytes) {
  index_t first = larger(copy->start - at, 0), stop = smaller(copy->start + copy->count - at, PANEL);
  char *panel = copy->panels + (group * copy->keys + at * copy->size) * bytes;
  char *line = copy->columns + (group * copy->size * copy->count + at - copy->start) * bytes;
  for (index_t d = 0; d < copy->size; d += 2, line += 2 * copy->count * bytes)
    copy_pair(panel + d * PANEL * bytes, line, line + copy->count * bytes, first, stop, bytes);
}

/* Panels [first, stop) of those of all groups in which there are positions to copy. */
INLINE void copy_some(const Copy *copy, index_t first, index_t stop, CopyPair copy_pair) {
  index_t begin = copy->start / PANEL, panels = panels_to_copy(copy);
  for (index_t i = first; i < stop; i++) {
    index_t group = i / panels, at = (begin + i % panels) * PANEL;
    if (copy->bytes == 1)
      copy_panel(copy, group, at, copy_pair, 1);
    else
      copy_panel(copy, group, at, copy_pair, sizeof(element));
  }
}

static void take_some(void *copy, index_t first, index_t stop) { copy_some(copy, first, stop, take_pair); }
static void put_some(void *copy, index_t first, index_t stop) { copy_some(copy, first, stop, put_pair); }

static void copy_panels(Copy copy, index_t groups, Work *work) {
  int many = groups * copy.size * copy.count > FEW_NUMBERS;
  share_out(work, &copy, groups * panels_to_copy(&copy), many);
}

/* panels [groups, panels of a group]; columns [groups, size, count], of the positions from `start` on;
 * numbers of so many bytes, 1 or those of an element. */
void take_keys(char *panels, char *columns, index_t groups, index_t panels_of_group, index_t size, index_t start,
               index_t count, index_t bytes) {
  Copy copy = {panels, columns, panels_of_group * PANEL * size, size, start, count, bytes};
  copy_panels(copy, groups, take_some);
}

/* The other way; keys of other positions stay as they are. */
void put_keys(char *panels, char *columns, index_t groups, index_t panels_of_group, index_t size, index_t start,
              index_t count, index_t bytes) {
  Copy copy = {panels, columns, panels_of_group * PANEL * size, size, start, count, bytes};
  copy_panels(copy, groups, put_some);
}
