/* Causal grouped-query attention of the last tokens of a sequence over its cache.
 *
 * The positions are cut into segments that begin at multiples of SEGMENT. Of each segment a row takes a share: its
 * largest score, the sum of its weights e^(score - largest), and the values so weighted. Shares are merged in the order of
 * the segments (online softmax: Milakov and Gimelshein, 2018; tiles as in FlashAttention: Dao et al., 2022). Weights are
 * numbers as tile() takes them; sums, scores and softmax are float32. */
#include "cache.h"
#include "tile.h"

enum { SEGMENT = 256, BLOCK = 96 }; /* positions, and rows that share what is packed of them */

typedef struct {
  const number *queries; /* as attend() has them, but for their type */
  const Cache *cache;
  element *to;
  float *part, *log_sums; /* in place of `to`, as attend_part() has them */
  index_t tokens, groups, heads, size, first, stop, start, window; /* first, stop: the positions to look at */
} Job;

/* What rows have taken so far. A row is a head of a token, heads running faster. */
typedef struct {
  float *largest, *sums, *outputs; /* [rows], [rows], [rows, width] */
} Shares;

INLINE index_t width_of(index_t size) { return parts_of(size, PANEL) * PANEL; }

INLINE const number *queries_of(const Job *job, index_t group, index_t row) {
  return job->queries + (group * job->tokens * job->heads + row) * job->size;
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

/* The shares of up to TILE_ROWS rows from `row` on in a segment of `count` positions from `from` on, of which they see the
 * first ones at least. */
static void attend_tile(const Job *job, index_t group, index_t row, index_t rows, const element *keys,
                        const element *values, index_t from, index_t count, Shares to) {
  index_t step = parts_of(count, 2) * 2;
  count = smaller(count, stop_of(job, row + rows - 1) - from);
  float scores[TILE_ROWS][SEGMENT];
  number weights[TILE_ROWS][SEGMENT];
  for (index_t at = 0; at < count; at += PANEL)
    tile(rows, queries_of(job, group, row), job->size, keys + at * job->size, job->size / 2, &scores[0][at], SEGMENT, 1);
  softmax_rows(job, row, rows, scores, from, count, weights, to);
  index_t pairs = parts_of(count, 2), width = width_of(job->size);
  for (index_t d = 0; d < width; d += PANEL)
    tile(rows, weights[0], SEGMENT, values + d * step, pairs, to.outputs + d, width, 1);
}

/* What rows have taken, and what they take from one more segment. A row that sees nothing of it stays as it is. */
static void merge(const Job *job, Shares total, Shares more, index_t rows) {
  index_t width = width_of(job->size);
  for (index_t r = 0; r < rows; r++) {
    if (more.largest[r] == -INFINITY) continue;
    float largest = fmaxf(total.largest[r], more.largest[r]);
    float keep = expf(total.largest[r] - largest), take = expf(more.largest[r] - largest);
    total.largest[r] = largest;
    total.sums[r] = total.sums[r] * keep + more.sums[r] * take;
    for (index_t d = 0; d < width; d += 16) {
      float *at = total.outputs + r * width + d;
      floats taken = multiply(load(more.outputs + r * width + d), all(take));
      store(at, multiply_add(load(at), all(keep), taken));
    }
  }
}

static Shares shares_at(float *memory, index_t rows) { return (Shares){memory, memory + rows, memory + 2 * rows}; }

static index_t floats_of(const Job *job, index_t rows) { return rows * (2 + width_of(job->size)); }

static void start(const Job *job, Shares total, index_t rows) {
  for (index_t r = 0; r < rows; r++) total.largest[r] = -INFINITY;
  memset(total.sums, 0, rows * sizeof(float));
  memset(total.outputs, 0, rows * width_of(job->size) * sizeof(float));
}

/* Outputs of rows from `row` on go to [tokens, groups * heads * size], and of a part their log-sum-exp to [tokens,
 * groups * heads]. */
static void finish(const Job *job, index_t group, index_t row, index_t rows, Shares total) {
  for (index_t r = 0; r < rows; r++) {
    index_t token = (row + r) / job->heads, head = group * job->heads + (row + r) % job->heads;
    index_t place = token * job->groups * job->heads + head;
    floats factor = all(total.sums[r] > 0 ? 1.0f / total.sums[r] : 0.0f);
    if (job->part) job->log_sums[place] = total.largest[r] + logf(total.sums[r]);
    for (index_t d = 0; d < job->size; d += 16) {
      floats values = multiply(load(total.outputs + r * width_of(job->size) + d), factor);
      if (job->part)
        store_first(job->part + place * job->size + d, values, job->size - d);
      else
        store_elements(job->to + place * job->size + d, values, job->size - d);
    }
  }
}

/* The same for all rows there are, when they are so few that packing would not pay. */
static void attend_lines(const Job *job, index_t group, index_t rows, index_t from, Shares to) {
  index_t count = smaller(SEGMENT, stop_of(job, rows - 1) - from);
  Segment segment = segment_of(job->cache, job->size, group, from, count);
  float scores[MOST_REGISTER_ROWS][SEGMENT];
  number weights[MOST_REGISTER_ROWS][SEGMENT];
  score_panels(&segment, rows, queries_of(job, group, 0), scores);
  softmax_rows(job, 0, rows, scores, from, count, weights, to);
  weigh(rows, &segment, weights[0], to.outputs);
}

/* The shares of rows from `row` on in the segment that begins at `from`. packed: room for its keys, which codes need, and
 * its values. */
static void attend_segment(const Job *job, index_t group, index_t row, index_t rows, index_t from, element *packed,
                           Shares to) {
  index_t count = smaller(SEGMENT, stop_of(job, row + rows - 1) - from);
  Segment segment = segment_of(job->cache, job->size, group, from, count);
  element *values = packed + SEGMENT * job->size;
  const element *keys = key_panels(&segment, packed);
  pack_values(&segment, values);
  for (index_t r = 0; r < rows; r += TILE_ROWS) {
    Shares part = {to.largest + r, to.sums + r, to.outputs + r * width_of(job->size)};
    attend_tile(job, group, row + r, smaller(TILE_ROWS, rows - r), keys, values, from, count, part);
  }
}

/* Many rows, which threads take block by block, the last and longest ones of a group first. */
typedef struct {
  const Job *job;
  float *memory;    /* for the shares of each thread */
  element *packed; /* [threads, packed_size] */
  index_t packed_size, next;
} Blocks;

static void attend_block(const Blocks *blocks, index_t group, index_t row) {
  const Job *job = blocks->job;
  index_t thread = omp_get_thread_num(), count = smaller(BLOCK, job->tokens * job->heads - row);
  Shares total = shares_at(blocks->memory + 2 * thread * floats_of(job, BLOCK), BLOCK);
  Shares more = shares_at(blocks->memory + (2 * thread + 1) * floats_of(job, BLOCK), BLOCK);
  start(job, total, count);
  index_t stop = stop_of(job, row + count - 1);
  for (index_t from = first_of(job, row) / SEGMENT * SEGMENT; from < stop; from += SEGMENT) {
    attend_segment(job, group, row, count, from, blocks->packed + thread * blocks->packed_size, more);
    merge(job, total, more, count);
  }
  finish(job, group, row, count, total);
}

static void attend_next_blocks(void *of, index_t first, index_t stop) {
  (void)first, (void)stop;
  Blocks *blocks = of;
  const Job *job = blocks->job;
  index_t each = parts_of(job->tokens * job->heads, BLOCK), block;
  begin_tiles();
  while ((block = take_next(&blocks->next)) < job->groups * each)
    attend_block(blocks, block / each, (each - 1 - block % each) * BLOCK);
  end_tiles();
}

static void attend_blocks(const Job *job, float *memory, element *packed, index_t packed_size) {
  Blocks blocks = {job, memory, packed, packed_size, 0};
  share_out(attend_next_blocks, &blocks, 0, 1);
}

/* A few rows, of which each thread takes segments. */
typedef struct {
  const Job *job;
  float *memory; /* for the shares of each segment */
  index_t begin, segments;
} Segments;

static void attend_some_segments(void *of, index_t first, index_t stop) {
  const Segments *all_of = of;
  const Job *job = all_of->job;
  index_t rows = job->tokens * job->heads;
  begin_tiles();
  for (index_t i = first; i < stop; i++) {
    index_t from = (all_of->begin + i % all_of->segments) * SEGMENT;
    attend_lines(job, i / all_of->segments, rows, from, shares_at(all_of->memory + i * floats_of(job, rows), rows));
  }
  end_tiles();
}

static void attend_segments(const Job *job, float *memory) {
  index_t rows = job->tokens * job->heads, begin = first_of(job, 0) / SEGMENT, floats = floats_of(job, rows);
  index_t segments = larger(0, parts_of(stop_of(job, rows - 1), SEGMENT) - begin), count = job->groups * segments;
  Segments task = {job, memory, begin, segments};
  share_out(attend_some_segments, &task, count, count > 1);
  Shares total = shares_at(memory + count * floats, rows);
  for (index_t group = 0; group < job->groups; group++) {
    start(job, total, rows);
    for (index_t s = 0; s < segments; s++) merge(job, total, shares_at(memory + (group * segments + s) * floats, rows), rows);
    finish(job, group, 0, rows, total);
  }
}

/* Returns 0, or 1 when there is no memory. */
static int run(Job *job, const element *queries) {
  int few = job->tokens * job->heads <= MOST_REGISTER_ROWS;
  index_t rows = few ? job->tokens * job->heads : BLOCK;
  index_t threads = omp_get_max_threads();
  index_t parts = few ? job->groups * parts_of(job->stop, SEGMENT) + 1 : 2 * threads;
  index_t packed_size = few ? 0 : SEGMENT * (job->size + width_of(job->size));
  element *packed = malloc(threads * packed_size * sizeof(element) + 1);
  float *memory = malloc(parts * floats_of(job, rows) * sizeof(float));
  index_t query_rows = job->groups * job->tokens * job->heads;
  number *room = malloc((PADDING ? query_rows * job->size * sizeof(number) : 0) + 1);
  int failed = !packed || !memory || !room;
  if (!failed) job->queries = as_numbers(queries, query_rows, job->size, 0, room);
  if (!failed && few)
    attend_segments(job, memory);
  else if (!failed)
    attend_blocks(job, memory, packed, packed_size);
  free(packed);
  free(memory);
  free(room);
  return failed;
}

/* queries [groups, tokens, heads, size], already scaled; the cache, of which token t sees positions
 * [start + t + 1 - window, start + t]; to [tokens, groups * heads, size]. `size` is even. Returns 0, or 1 when there is no
 * memory. */
int attend(const element *queries, const Cache *cache, element *to, index_t tokens, index_t groups, index_t heads,
           index_t size, index_t start_, index_t window) {
  Job job = {.cache = cache, .to = to, .tokens = tokens, .groups = groups, .heads = heads,
             .size = size, .stop = start_ + tokens, .start = start_, .window = window};
  return run(&job, queries);
}

/* The same of positions [first, stop) alone, to be merged with other parts: outputs to part [tokens, groups * heads, size],
 * and the logarithms of what the weights sum up to, log_sums [tokens, groups * heads]: -inf where a token sees none of
 * these positions, and outputs of 0. The positions before `first` are filled, too. */
int attend_part(const element *queries, const Cache *cache, float *part, float *log_sums, index_t tokens, index_t groups,
                index_t heads, index_t size, index_t first, index_t stop, index_t start_, index_t window) {
  Job job = {.cache = cache, .part = part, .log_sums = log_sums, .tokens = tokens, .groups = groups,
             .heads = heads, .size = size, .first = first, .stop = stop, .start = start_, .window = window};
  return run(&job, queries);
}
