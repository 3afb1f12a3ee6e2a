/* Threads: those of the OpenMP that torch has brought along, one team for torch and for us. It is called by the names that
 * it has in libgomp, and in the libraries that can stand in for that; pragmas would need a compiler with an omp.h and calls
 * of the same kind. */
#pragma once
#include <stdint.h>

void GOMP_parallel(void (*task)(void *), void *data, unsigned threads, unsigned flags);
int omp_get_thread_num(void);
int omp_get_num_threads(void);
int omp_get_max_threads(void);

/* What a thread does: items [first, stop) of a job. */
typedef void Work(void *job, int64_t first, int64_t stop);

typedef struct {
  Work *work;
  void *job;
  int64_t count;
} Shared;

static void work_on_share(void *of) {
  const Shared *shared = of;
  int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
  int64_t each = shared->count / threads, rest = shared->count % threads;
  int64_t first = each * thread + (thread < rest ? thread : rest);
  shared->work(shared->job, first, first + each + (thread < rest));
}

/* Does work on all items [0, count), on all threads if it is worth waking them up, and returns when all is done. */
static inline void share_out(Work *work, void *job, int64_t count, int wake) {
  Shared shared = {work, job, count};
  if (wake)
    GOMP_parallel(work_on_share, &shared, 0, 0);
  else
    work(job, 0, count);
}

/* For work of items that take unequally long, which threads take one by one: the next of them. */
static inline int64_t take_next(int64_t *next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }
