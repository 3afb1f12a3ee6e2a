/* Causal grouped-query attention of the last tokens of sequences over their caches: threads take pieces of it. A few rows
 * are cut by segments of positions, and whoever is done last merges their shares; many are cut into blocks of rows. */
#include "segment.h"

enum { BLOCK = 96 }; /* rows that share what is packed of a segment */

/* A span's attention, and how each of its groups is cut. */
typedef struct {
  Job job;
  index_t begin, pieces; /* the first segment of a few rows; how many there are, or blocks of many */
  float *shares;         /* of each group and segment */
  int64_t *finished;     /* pieces of each group */
} SpanJob;

typedef struct {
  const SpanJob *jobs;
  const AttentionRoom *room;
  index_t pieces;
  int64_t *next;
} Pieces;

INLINE int is_few(index_t rows) { return rows <= MOST_REGISTER_ROWS; }

static Shares shares_at(float *memory, index_t rows) { return (Shares){memory, memory + rows, memory + 2 * rows}; }

static index_t floats_of(const Job *job, index_t rows) { return rows * (2 + width_of(job->size)); }

static void begin_shares(const Job *job, Shares total, index_t rows) {
  for (index_t r = 0; r < rows; r++) total.largest[r] = -INFINITY;
  memset(total.sums, 0, rows * sizeof(float));
  memset(total.outputs, 0, rows * width_of(job->size) * sizeof(float));
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

/* The last of a group's few rows' segments is done. */
static void merge_segments(const SpanJob *span, index_t group) {
  const Job *job = &span->job;
  index_t rows = rows_of(job), floats = floats_of(job, rows);
  float memory[floats];
  Shares total = shares_at(memory, rows);
  begin_shares(job, total, rows);
  for (index_t s = 0; s < span->pieces; s++)
    merge(job, total, shares_at(span->shares + (group * span->pieces + s) * floats, rows), rows);
  finish(job, group, 0, rows, total);
}

static void attend_few(const SpanJob *span, index_t group, index_t piece) {
  const Job *job = &span->job;
  index_t rows = rows_of(job), from = (span->begin + piece) * SEGMENT;
  Shares shares = shares_at(span->shares + (group * span->pieces + piece) * floats_of(job, rows), rows);
  if (from < stop_of(job, rows - 1))
    attend_lines(job, group, from, shares);
  else
    begin_shares(job, shares, rows);
  if (__atomic_add_fetch(&span->finished[group], 1, __ATOMIC_ACQ_REL) < span->pieces) return;
  span->finished[group] = 0; /* for the next layer */
  merge_segments(span, group);
}

/* A thread's room for a block: shares so far, those of a segment, its keys and values, and queries. */
static size_t bytes_of_block(const Heads *heads) {
  size_t width = width_of(heads->size), shares = BLOCK * (2 + width) * sizeof(float);
  return 2 * shares + SEGMENT * (heads->size + width) * sizeof(element) + (PADDING ? BLOCK * heads->size * sizeof(number) : 0);
}

static void attend_block(const Job *job, index_t group, index_t row, char *room) {
  index_t count = smaller(BLOCK, rows_of(job) - row), stop = stop_of(job, row + count - 1);
  float *memory = (float *)room + 2 * floats_of(job, BLOCK);
  element *packed = (element *)memory;
  number *numbers = (number *)(packed + SEGMENT * (job->size + width_of(job->size)));
  Shares total = shares_at((float *)room, BLOCK), more = shares_at((float *)room + floats_of(job, BLOCK), BLOCK);
  const number *queries = queries_of(job, group, row, count, numbers);
  begin_shares(job, total, count);
  for (index_t from = first_of(job, row) / SEGMENT * SEGMENT; from < stop; from += SEGMENT) {
    attend_segment(job, group, row, count, queries, from, packed, more);
    merge(job, total, more, count);
  }
  finish(job, group, row, count, total);
}

/* The blocks with the last rows, which see most, come first. */
static void attend_piece(const SpanJob *span, index_t group, index_t piece, char *room) {
  if (is_few(rows_of(&span->job)))
    attend_few(span, group, piece);
  else
    attend_block(&span->job, group, (span->pieces - 1 - piece) * BLOCK, room);
}

static void attend_next(void *of, index_t first, index_t stop) {
  (void)first, (void)stop;
  const Pieces *pieces = of;
  const AttentionRoom *room = pieces->room;
  const SpanJob *span = pieces->jobs;
  char *own = room->own + omp_get_thread_num() * room->own_bytes;
  begin_tiles();
  for (index_t piece, passed = 0; (piece = take_next(pieces->next)) < pieces->pieces;) {
    for (; piece - passed >= span->job.groups * span->pieces; span++) passed += span->job.groups * span->pieces;
    attend_piece(span, (piece - passed) / span->pieces, (piece - passed) % span->pieces, own);
  }
  end_tiles();
}

static Job job_of(const Heads *heads, const Span *span, const element *queries, index_t window, index_t stop) {
  return (Job){.queries = queries, .tokens = span->tokens, .groups = heads->groups, .heads = heads->heads,
               .size = heads->size, .stop = stop, .start = span->start, .window = window};
}

static SpanJob cut(Job job, float *shares, int64_t *finished) {
  index_t rows = rows_of(&job), begin = first_of(&job, 0) / SEGMENT, pieces = parts_of(rows, BLOCK);
  if (rows && is_few(rows)) pieces = larger(parts_of(stop_of(&job, rows - 1), SEGMENT) - begin, 1);
  return (SpanJob){job, begin, pieces, shares, finished};
}

static void attend_all(const AttentionRoom *room, const SpanJob *jobs, index_t count, int64_t *next) {
  Pieces pieces = {jobs, room, 0, next};
  for (index_t i = 0; i < count; i++) pieces.pieces += jobs[i].job.groups * jobs[i].pieces;
  share_out(attend_next, &pieces, 0, is_in_team() || pieces.pieces > 1);
}

/* Where a thread keeps the jobs, behind its room for a block. */
INLINE SpanJob *jobs_in(const AttentionRoom *room, index_t count) {
  return (SpanJob *)(room->own + omp_get_thread_num() * room->own_bytes + room->own_bytes) - count;
}

/* Room for so many layers whose heads have this shape. */
AttentionRoom attention_room(Memory *memory, const Heads *heads, const Batch *batch, index_t layers) {
  size_t shares = 0, block = 0, zeros = (batch->count * heads->groups + layers) * sizeof(int64_t);
  for (index_t i = 0; i < batch->count; i++) {
    const Span *span = &batch->spans[i];
    index_t rows = span->tokens * heads->heads, segments = parts_of(span->start + span->tokens, SEGMENT);
    if (is_few(rows))
      shares += heads->groups * segments * rows * (2 + width_of(heads->size)) * sizeof(float);
    else
      block = bytes_of_block(heads);
  }
  AttentionRoom room = {.shares = take_bytes(memory, shares), .next = take_bytes(memory, zeros)};
  room.finished = room.next + layers;
  room.own_bytes = parts_of(block, 64) * 64 + parts_of(batch->count * sizeof(SpanJob), 64) * 64;
  room.own = take_bytes(memory, omp_get_max_threads() * room.own_bytes);
  if (memory->begin) memset(room.next, 0, zeros);
  return room;
}

/* queries [groups, tokens, heads, size] of each span, already scaled; token t of a span sees positions
 * [start + t + 1 - window, start + t] of its cache of this layer; to [tokens, groups * heads, size]. `size` is even. */
void attend_in(const AttentionRoom *room, const Heads *heads, const element *queries, const Batch *batch, index_t layer,
               index_t window, element *to) {
  SpanJob *jobs = jobs_in(room, batch->count);
  index_t width = heads->groups * heads->heads * heads->size, first = 0, last = batch->count, row = 0;
  float *shares = room->shares;
  for (index_t i = 0; i < batch->count; i++) {
    const Span *span = &batch->spans[i];
    Job job = job_of(heads, span, queries + row * width, window, span->start + span->tokens);
    job.cache = span->caches + layer;
    job.to = to + row * width;
    SpanJob *at = is_few(rows_of(&job)) ? &jobs[--last] : &jobs[first++]; /* what takes longest comes first */
    *at = cut(job, shares, room->finished + i * heads->groups);
    if (is_few(rows_of(&job))) shares += heads->groups * at->pieces * floats_of(&job, rows_of(&job));
    row += span->tokens;
  }
  attend_all(room, jobs, batch->count, room->next + layer);
}

/* The same with room of its own. Returns 0, or 1 when there is no memory. */
int attend(const Heads *heads, const element *queries, const Batch *batch, index_t window, element *to) {
  Memory memory = {0};
  attention_room(&memory, heads, batch, 1);
  if (!get_memory(&memory)) return 1;
  AttentionRoom room = attention_room(&memory, heads, batch, 1);
  attend_in(&room, heads, queries, batch, 0, window, to);
  free(memory.begin);
  return 0;
}

/* The same of positions [first, stop) of a single span, to be merged with other parts: outputs to part [tokens, groups *
 * heads, size], and the logarithms of what the weights sum up to, log_sums [tokens, groups * heads]: -inf where a token
 * sees none of these positions, and outputs of 0. The positions before `first` are filled, too. */
int attend_part(const Heads *heads, const element *queries, const Batch *batch, index_t window, index_t first,
                index_t stop, float *part, float *log_sums) {
  Memory memory = {0};
  Span whole = *batch->spans;
  whole.start = larger(whole.start, stop); /* as many segments as there may be */
  Batch most = {NULL, NULL, &whole, 1, whole.tokens};
  attention_room(&memory, heads, &most, 1);
  if (!get_memory(&memory)) return 1;
  AttentionRoom room = attention_room(&memory, heads, &most, 1);
  Job job = job_of(heads, batch->spans, queries, window, stop);
  job.cache = batch->spans->caches;
  job.first = first;
  job.part = part;
  job.log_sums = log_sums;
  SpanJob *jobs = jobs_in(&room, 1);
  *jobs = cut(job, room.shares, room.finished);
  attend_all(&room, jobs, 1, room.next);
  free(memory.begin);
  return 0;
}
