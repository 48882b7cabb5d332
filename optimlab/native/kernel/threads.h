/* Threads: how the elements of all tensors are divided among them.
 *
 * Each thread has a share of its own, takes piece after piece of it, and helps with the others' when
 * it is done. No thread waits for another before the end, and every element is computed once, by
 * whoever comes to it first. */

/* What a thread has to do, piece after piece, and what others may take of it when they are done,
 * with the memory for its temporaries. Each share has cache lines of its own, because every thread
 * writes to its own all the time. */
typedef struct {
    long next, last;
    char scratch[SCRATCH] __attribute__((aligned(128)));
} __attribute__((aligned(128))) Share;

static Share *shares;
static long share_count;

/* Make room for so many shares; return whether there is memory for it. */
static int reserve(long count)
{
    if (count > share_count) {
        void *more = NULL;
        if (posix_memalign(&more, 128, (size_t)count * sizeof *shares))
            return 0;
        free(shares);
        shares = more;
        share_count = count;
    }
    return 1;
}

/* Divide an array evenly, with borders on its cache lines, so that few lines are shared. */
static void divide(long count, long total)
{
    const long size = ((total + count - 1) / count + 63) / 64 * 64;
    for (long k = 0; k < count; k++) {
        const long last = (k + 1) * size;
        shares[k].next = k * size;
        shares[k].last = last < total ? last : total;
    }
}

/* Work on all shares, beginning with one's own. The processors of a machine are not equally fast,
 * nor equally free; an element's result does not depend on who computes it. */
static void run_shares(const Tensors *tensors, RunRange run_range, long count, long own)
{
    Place place = {0, 0};
    for (long k = 0; k < count; k++) {
        Share *share = &shares[(own + k) % count];
        /* Look before taking: what is not written to can be read by all threads at once. */
        while (__atomic_load_n(&share->next, __ATOMIC_RELAXED) < share->last) {
            const long first = __atomic_fetch_add(&share->next, PIECE, __ATOMIC_RELAXED);
            const long last = first + PIECE < share->last ? first + PIECE : share->last;
            if (first < last)
                run_range(&program, tensors, &place, shares[own].scratch, first, last);
        }
    }
}

/* How many of so many threads have another floating-point mode than the one that asks. */
long optimlab_odd_threads(int threads)
{
    long odd = 0;
#ifdef _OPENMP
    const uint64_t mode = float_mode();
#pragma omp parallel num_threads(threads) reduction(+ : odd)
    odd += float_mode() != mode;
#endif
    (void)threads;
    return odd;
}

/* Run the program with several threads. Those that round or flush otherwise than the one that asks
 * have no part in it. */
static int run_with_threads(const Tensors *tensors, RunRange run_range, int threads)
{
    int odd = 0;
#ifdef _OPENMP
    const uint64_t mode = float_mode();
    /* There may come fewer threads than asked for: then they take the other shares, too. */
#pragma omp parallel num_threads(threads)
    {
        if (float_mode() == mode) {
            /* MKL would start threads of its own inside this region. */
            const int before = mkl_set_threads_local ? mkl_set_threads_local(1) : 0;
            run_shares(tensors, run_range, threads, omp_get_thread_num());
            if (mkl_set_threads_local)
                mkl_set_threads_local(before);
        } else {
            __atomic_store_n(&odd, 1, __ATOMIC_RELAXED);
        }
    }
#else
    run_shares(tensors, run_range, threads, 0);
#endif
    return odd ? DONE_BY_FEWER : DONE;
}

static int threads_of(const Launch *launch)
{
    const int most = launch->threads < MOST_SHARES ? launch->threads : MOST_SHARES;
    return most > 1 ? most : 1;
}
