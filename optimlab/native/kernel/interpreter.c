/* An interpreter that runs elementwise programs over many tensors in one pass over memory.
 *
 * It knows instructions such as "d = a + s * b", each rounding exactly as the ATen operation of that
 * meaning does on CPU, and it knows no optimizer. A program is run on chunks small enough to stay
 * in the first-level cache through all of its instructions, so every parameter, gradient and state
 * element is read from memory and written to it once. All tensors count as one long array, of which
 * each thread has a share, and helps with the others' when it is done with its own.
 *
 *   program.h     instructions, programs, and what a call is given
 *   roots.h       square roots
 *   loops.h       the instructions themselves, for one number type and one instruction set
 *   peephole.h    superinstructions
 *   threads.h     how the elements are divided among threads
 *   float_mode.h  rounding and flushing of a thread
 *   guards.c      what is asked of every tensor before a program runs
 *
 * There is no Python and no torch in here: raw pointers come in, and the caller checks beforehand
 * that instructions and superinstructions give ATen's bits on this processor (self_check.py). Only
 * the thread that has Python's lock calls in here, so that what is static needs no lock of its own.
 * Threads of Python may have stacks of a few pages, and workers too: what takes room is on the heap.
 */

#define _POSIX_C_SOURCE 200112L /* posix_memalign */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "float_mode.h"
#include "program.h"

#if defined(__x86_64__)
#define X86 1
#endif

#ifdef _OPENMP
#include <omp.h>
#endif

/* Flags of the user's environment must not change arithmetic. Where they do so in spite of the
 * build's own flags, there is no kernel, and steps take the for-loop. */
#include <float.h>
#if defined(__FAST_MATH__) || (FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16) /* 16: as 0 here */
#error "the kernel cannot be built with fast-math, or with intermediate results of extra precision"
#endif

/* What GCC and Clang spell differently: a region of functions for other processors, and that the
 * operands of a loop are the same memory or share none. */
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#define EACH _Pragma("clang loop vectorize(assume_safety)") for (long i = 0; i < n; i++)
#define FOR_AVX512 "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"
#define TARGET(names) PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define BEGIN_AVX2 TARGET("avx2,fma")
#define BEGIN_AVX512 TARGET(FOR_AVX512)
#define END _Pragma("clang attribute pop")
#else
#define EACH _Pragma("GCC ivdep") for (long i = 0; i < n; i++)
#define FOR_AVX512 "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,prefer-vector-width=512"
#define TARGET(names) _Pragma("GCC push_options") PRAGMA(GCC target(names))
#define BEGIN_AVX2 TARGET("avx2,fma")
#define BEGIN_AVX512 TARGET(FOR_AVX512)
#define END _Pragma("GCC pop_options")
#endif

#include "roots.h"

#define JOIN2(name, suffix) name##_##suffix
#define JOIN(name, suffix) JOIN2(name, suffix)
#define NAME(name) JOIN(name, SUFFIX)

#define REAL float
#define FMA __builtin_fmaf
#define ABS __builtin_fabsf
#define ROOT root_float
#define SUFFIX float
#include "loops.h"
#undef ROOT
#undef SUFFIX

#ifdef X86
#define ROOT root_float_avx2
#define SUFFIX float_avx2
BEGIN_AVX2
#include "loops.h"
END
#undef SUFFIX
#undef ROOT
#define ROOT root_float_avx512
#define ADD_QUOTIENT_OF_ROOT add_quotient_of_root_in_registers
#define SUFFIX float_avx512
BEGIN_AVX512
#include "loops.h"
END
#undef SUFFIX
#undef ADD_QUOTIENT_OF_ROOT
#undef ROOT
#endif
#undef REAL
#undef FMA
#undef ABS

#define REAL double
#define FMA __builtin_fma
#define ABS __builtin_fabs
#define ROOT root_double
#define SUFFIX double
#include "loops.h"
#undef SUFFIX
#ifdef X86
#define SUFFIX double_avx2
BEGIN_AVX2
#include "loops.h"
END
#undef SUFFIX
#define SUFFIX double_avx512
BEGIN_AVX512
#include "loops.h"
END
#undef SUFFIX
#endif

#include "peephole.h"

typedef void (*RunRange)(const Program *, const Tensors *, Place *, void *scratch, long first,
                         long last);

enum { PLAIN, AVX2, AVX512 };

static int instruction_set(void)
{
#ifdef X86
    static int known = -1;
    if (known < 0) {
        __builtin_cpu_init();
        known = PLAIN;
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
            known = AVX2;
        if (known == AVX2 && __builtin_cpu_supports("avx512f") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512bw"))
            known = AVX512;
    }
    return known;
#else
    return PLAIN;
#endif
}

static int limit = AVX512;

/* For tests and measurements: use at most this instruction set. Returns the one in use. */
int optimlab_limit_instruction_set(int most)
{
    limit = most;
    return instruction_set() < limit ? instruction_set() : limit;
}

static RunRange run_range_for(int is_double)
{
    const int set = instruction_set() < limit ? instruction_set() : limit;
#ifdef X86
    if (set == AVX512)
        return is_double ? (RunRange)run_range_double_avx512 : (RunRange)run_range_float_avx512;
    if (set == AVX2)
        return is_double ? (RunRange)run_range_double_avx2 : (RunRange)run_range_float_avx2;
#endif
    (void)set;
    return is_double ? (RunRange)run_range_double : (RunRange)run_range_float;
}

/* Which of the processor's instruction sets there are: 0 plain C, 1 AVX2, 2 AVX-512. */
int optimlab_processor(void)
{
    return instruction_set();
}

/* The version of all that Python and this library tell each other: that of library.py. */
int optimlab_version(void)
{
    return VERSION;
}

int optimlab_has_usual_mode(void)
{
    return float_mode() == USUAL_MODE;
}

/* Read a program: six numbers for each instruction. Returns 0 if it is not one. */
static int read_program(Program *program, const double *numbers, long length, long inputs)
{
    if (length > MOST_INSTRUCTIONS || inputs > MOST_INPUTS)
        return 0;
    program->length = length;
    for (long k = 0; k < length; k++, numbers += 6) {
        const Instruction read = {(int)numbers[0], (int)numbers[1], (int)numbers[2],
                                  (int)numbers[3], (int)numbers[4], numbers[5], 1, 0, 0};
        const long registers = inputs + TEMPORARIES;
        if (fabs(read.scalar) > LARGEST_FLOAT && !isinf(read.scalar))
            return 0; /* torch refuses some numbers that float32 cannot hold */
        if (read.operation < 0 || read.operation > MAXIMUM || read.result < 0 || read.a < 0 ||
            read.b < 0 || read.c < 0 || read.result >= registers || read.a >= registers ||
            read.b >= registers || read.c >= registers)
            return 0;
        program->instructions[k] = read;
    }
    return 1;
}

static Program program; /* the one that runs */

/* For tests: how many instructions are left of a program once the peephole pass has made its
 * superinstructions, or -1 if it is not a program. */
long optimlab_joined_length(const double *numbers, long length, long inputs)
{
    if (!read_program(&program, numbers, length, inputs))
        return -1;
    make_superinstructions(&program, inputs);
    return program.length;
}

static int asks_mkl(int is_double)
{
    if ((is_double ? root_mode_double : root_mode_float) != ROOT_OF_MKL)
        return 0;
    for (long k = 0; k < program.length; k++) {
        const int operation = program.instructions[k].operation;
        if (operation == SQUARE_ROOT || operation == ROOT_ADD_QUOTIENT ||
            operation == ROOT_DIVIDE_ADD_QUOTIENT)
            return 1;
    }
    return 0;
}

static long chunk_for(const Launch *launch)
{
    const long bytes = launch->total * launch->inputs * (launch->is_double ? 8 : 4);
    if (program.length == 1)
        return CHUNK;
    if (bytes > BYTES_IN_CACHE)
        return CHUNK_FROM_MEMORY;
    /* MKL takes its time to begin. */
    return asks_mkl(launch->is_double) ? CHUNK : CHUNK_OF_SEVERAL;
}

/* Add 1 to every step count, and to the step that is coming. */
static void count_steps(Launch *launch)
{
    for (long t = 0; t < launch->step_count; t++) {
        if (launch->steps_are_double)
            *(double *)launch->steps[t] += 1;
        else
            *(float *)launch->steps[t] += 1;
    }
    launch->code[0] += launch->step_count > 0;
}

#include "threads.h"

/* Whether nothing stands in the way of running: it is a program, and there is memory for it. */
int optimlab_can_run(const Launch *launch)
{
    return read_program(&program, launch->code + 1, launch->length, launch->inputs) &&
           reserve(threads_of(launch));
}

/* Count the step, and run the program over all tensors.
 *
 * Registers below inputs are tensors, those above are temporaries; total is the sum of the sizes. */
int optimlab_run(Launch *launch)
{
    const int threads = threads_of(launch);
    /* There is one static program. A step asks this of all its launches before it runs the first, so
     * that the last one's is there now, or one that the run before has made superinstructions of. */
    if (!optimlab_can_run(launch))
        return NOT_DONE;
    divide(threads, launch->total);
    if (launch->superinstructions)
        make_superinstructions(&program, launch->inputs);
    const Tensors tensors = {launch->pointers, launch->sizes, launch->inputs, launch->count,
                             chunk_for(launch)};
    const RunRange run_range = run_range_for(launch->is_double);
    count_steps(launch);
    if (threads > 1)
        return run_with_threads(&tensors, run_range, threads);
    run_shares(&tensors, run_range, 1, 0);
    return DONE;
}
