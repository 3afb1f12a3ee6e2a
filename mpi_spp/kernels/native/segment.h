/* What rows of queries take of a segment of positions, and what they have taken of several.
 *
 * The positions are cut into segments that begin at multiples of SEGMENT. Of each segment a row takes a share: its
 * largest score, the sum of its weights e^(score - largest), and the values so weighted. Shares are merged in the order of
 * the segments (online softmax: Milakov and Gimelshein, 2018; tiles as in FlashAttention: Dao et al., 2022). Weights are
 * numbers as tile() takes them; sums, scores and softmax are float32. */
#pragma once
#include "cache.h"
#include "tile.h"

enum { SEGMENT = 256 }; /* positions */

/* The attention of some tokens of a sequence. A row is a head of a token, heads running faster. */
typedef struct {
  const element *queries; /* [groups, tokens, heads, size] */
  const Cache *cache;
  element *to;
  float *part, *log_sums; /* in place of `to`, as attend_part() has them */
  index_t tokens, groups, heads, size, first, stop, start, window; /* first, stop: the positions to look at */
} Job;

/* What rows have taken so far. */
typedef struct {
  float *largest, *sums, *outputs; /* [rows], [rows], [rows, width] */
} Shares;

INLINE index_t width_of(index_t size) { return parts_of(size, PANEL) * PANEL; }
INLINE index_t rows_of(const Job *job) { return job->tokens * job->heads; }

/* The queries of rows of a group as tile() takes them: where they are, or in room for [rows, size]. */
static const number *queries_of(const Job *job, index_t group, index_t row, index_t rows, number *room) {
  const element *from = job->queries + (group * rows_of(job) + row) * job->size;
  const number *numbers = as_numbers(from, smaller(rows, MOST_REGISTER_ROWS), job->size, 0, room);
  for (index_t r = MOST_REGISTER_ROWS; r < rows; r += MOST_REGISTER_ROWS)
    as_numbers(from + r * job->size, smaller(rows - r, MOST_REGISTER_ROWS), job->size, 0, room + r * job->size);
  return numbers;
}

/* The positions that a row sees. */
INLINE index_t behind(const Job *job, index_t row) { return job->start + row / job->heads + 1; }
INLINE index_t stop_of(const Job *job, index_t row) { return smaller(job->stop, behind(job, row)); }
INLINE index_t first_of(const Job *job, index_t row) { return larger(job->first, behind(job, row) - job->window); }

#if defined(__AMX_BF16__) || !defined(__AVX512BF16__)

/* Outputs [rows, width] of weights [rows, SEGMENT] of a few rows with the values, to the bit those of many rows. */
static void weigh(index_t rows, const Segment *segment, const number *weights, float *outputs) {
  index_t width = width_of(segment->size), pairs = parts_of(segment->count, 2);
  element values[SEGMENT * width];
  pack_values(segment, values);
  for (index_t d = 0; d < width; d += PANEL)
    tile(rows, weights, SEGMENT, values + 2 * pairs * d, pairs, outputs + d, width, 1);
}

#else

/* A few rows go through lines of values as they lie in the cache, several side by side: memory is read in longer runs
 * then. Their sums fill the registers that a tile fills. */
enum { MOST_LINES = 4 };
#define LINES(rows) ((rows) * MOST_LINES <= MOST_REGISTER_ROWS ? MOST_LINES : MOST_REGISTER_ROWS / (rows))

/* What tile() makes of two lines that pack() would pack, without the way through memory. */
INLINE void add_lines(int rows, const number *a, index_t stride, words even, words odd, floats sums[][2]) {
  words pairs[2];
  interleave(even, odd, pairs);
  for (int r = 0; r < rows; r++) {
    int pair;
    memcpy(&pair, a + r * stride, 4);
    __m512bh inputs = (__m512bh)_mm512_set1_epi32(pair);
    for (int half = 0; half < 2; half++) sums[r][half] = _mm512_dpbf16_ps(sums[r][half], inputs, (__m512bh)pairs[half]);
  }
}

INLINE void store_sums(int rows, floats sums[][2], float *c, index_t stride) {
  for (int r = 0; r < rows; r++)
    for (int half = 0; half < 2; half++) store(c + r * stride + 16 * half, sums[r][half]);
}

/* Outputs [rows, lines * PANEL] of weights [rows, SEGMENT] with the values' numbers from d on. */
INLINE void weigh_some(int rows, int lines, const Segment *segment, index_t d, const number *weights, float *outputs) {
  floats sums[MOST_LINES][MOST_REGISTER_ROWS][2];
  for (int l = 0; l < lines; l++)
    for (int r = 0; r < rows; r++) sums[l][r][0] = sums[l][r][1] = zeros();
  for (index_t at = 0; at < segment->count; at += 2)
    for (int l = 0; l < lines; l++) {
      index_t from = d + l * PANEL;
      add_lines(rows, weights + at, SEGMENT, value_line(segment, at, from), value_line(segment, at + 1, from), sums[l]);
    }
  for (int l = 0; l < lines; l++) store_sums(rows, sums[l], outputs + d + l * PANEL, width_of(segment->size));
}

INLINE void weigh_lines(int rows, const Segment *segment, const number *weights, float *outputs) {
  index_t d = 0, step = LINES(rows) * PANEL;
  for (; d + step <= segment->size; d += step) weigh_some(rows, LINES(rows), segment, d, weights, outputs);
  for (; d < segment->size; d += PANEL) weigh_some(rows, 1, segment, d, weights, outputs);
}

/* Outputs [rows, width] of weights [rows, SEGMENT] of a few rows with the values. */
static void weigh(index_t rows, const Segment *segment, const number *weights, float *outputs) {
#define CALL(R) weigh_lines(R, segment, weights, outputs)
  WITH_ROWS(rows, CALL)
#undef CALL
}

#endif

/* Scores [rows, SEGMENT] of a few rows with the keys. */
static void score_panels(const Segment *segment, index_t rows, const number *queries, float scores[][SEGMENT]) {
  index_t size = segment->size;
  element room[PANEL * size];
  for (index_t at = 0; at < segment->count; at += PANEL)
    tile(rows, queries, size, key_panel(segment, at, room), size / 2, &scores[0][at], SEGMENT, 1);
}

/* Scores [count] become weights, 0 outside [first, stop) and beyond `count` up to whole vectors. */
static void softmax(const float *scores, index_t first, index_t stop, index_t count, number *weights, float *largest,
                    float *sum) {
  floats most = all(-INFINITY), total = zeros();
  for (index_t i = 0; i < count; i += 16)
    most = maximum_where(within(first - i, stop - i), most, load(scores + i));
  *largest = largest_of(most);
  for (index_t i = 0; i < count; i += 16) {
    floats weight = exponential(subtract(load(scores + i), all(*largest)));
    weight = choose(within(first - i, stop - i), weight, zeros());
    total = add(total, weight);
    store_numbers(weights + i, weight);
  }
  *sum = sum_of(total);
}

static void softmax_rows(const Job *job, index_t row, index_t rows, float scores[][SEGMENT], index_t from,
                         index_t count, number weights[][SEGMENT], Shares to) {
  for (index_t r = 0; r < rows; r++)
    softmax(scores[r], first_of(job, row + r) - from, stop_of(job, row + r) - from, count, weights[r], &to.largest[r],
            &to.sums[r]);
}

/* The shares of all rows of a group in the segment that begins at `from`; so few that packing would not pay. */
static void attend_lines(const Job *job, index_t group, index_t from, Shares to) {
  index_t rows = rows_of(job);
  index_t count = smaller(SEGMENT, stop_of(job, rows - 1) - from);
  Segment segment = segment_of(job->cache, job->size, group, from, count);
  float scores[MOST_REGISTER_ROWS][SEGMENT];
  number room[PADDING ? rows * job->size : 1];
  number weights[MOST_REGISTER_ROWS][SEGMENT];
  score_panels(&segment, rows, queries_of(job, group, 0, rows, room), scores);
  softmax_rows(job, 0, rows, scores, from, count, weights, to);
  weigh(rows, &segment, weights[0], to.outputs);
}

/* The shares of up to TILE_ROWS rows from `row` on in a segment of `count` positions from `from` on, of which they see the
 * first ones at least. */
static void attend_tile(const Job *job, index_t row, index_t rows, const number *queries, const element *keys,
                        const element *values, index_t from, index_t count, Shares to) {
  index_t step = parts_of(count, 2) * 2;
  count = smaller(count, stop_of(job, row + rows - 1) - from);
  float scores[TILE_ROWS][SEGMENT];
  number weights[TILE_ROWS][SEGMENT];
  for (index_t at = 0; at < count; at += PANEL)
    tile(rows, queries, job->size, keys + at * job->size, job->size / 2, &scores[0][at], SEGMENT, 1);
  softmax_rows(job, row, rows, scores, from, count, weights, to);
  index_t pairs = parts_of(count, 2), width = width_of(job->size);
  for (index_t d = 0; d < width; d += PANEL)
    tile(rows, weights[0], SEGMENT, values + d * step, pairs, to.outputs + d, width, 1);
}

/* The shares of rows from `row` on, with these queries, in the segment that begins at `from`. packed: room for its keys,
 * which codes need, and its values. */
static void attend_segment(const Job *job, index_t group, index_t row, index_t rows, const number *queries, index_t from,
                           element *packed, Shares to) {
  index_t count = smaller(SEGMENT, stop_of(job, row + rows - 1) - from);
  Segment segment = segment_of(job->cache, job->size, group, from, count);
  element *values = packed + SEGMENT * job->size;
  const element *keys = key_panels(&segment, packed);
  pack_values(&segment, values);
  for (index_t r = 0; r < rows; r += TILE_ROWS) {
    Shares part = {to.largest + r, to.sums + r, to.outputs + r * width_of(job->size)};
    attend_tile(job, row + r, smaller(TILE_ROWS, rows - r), queries + r * job->size, keys, values, from, count, part);
  }
}

