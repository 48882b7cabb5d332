/* What the interpreter runs: programs of instructions, tensors, and where a thread has come to. */

#ifndef OPTIMLAB_PROGRAM_H
#define OPTIMLAB_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

/* How many elements go through all instructions at a time, at most. A single instruction is best
 * carried out in long loops, several on what the first-level cache holds with room to spare. What
 * comes from memory is better fetched little by little, during all of the instructions, than all of
 * it during the first that reads it. */
#define CHUNK 1024
#define CHUNK_OF_SEVERAL 256
#define CHUNK_FROM_MEMORY 128
#define BYTES_IN_CACHE (16L << 20)

/* The limits of a program; the numbers are those of bytecode.py. */
#define MOST_INPUTS 16
#define TEMPORARIES 8
#define MOST_INSTRUCTIONS 64
#define LARGEST_FLOAT 3.4028234663852886e38

/* Elements that a thread takes of a share at a time. */
#define PIECE 16384
#define MOST_SHARES 256

/* The version of all that Python and this library tell each other: that of library.py. */
#define VERSION 4

/* Bytes for the temporaries of a chunk, and its roots. */
#define SCRATCH ((TEMPORARIES + 1) * CHUNK * sizeof(double))

/* The numbers are those of bytecode.py. */
enum {
    COPY = 0,
    NEGATE,
    ABSOLUTE,
    SIGN,
    SQUARE_ROOT,
    RECIPROCAL,
    ADD_SCALED,
    ADD_SCALAR,
    MULTIPLY_SCALAR,
    MULTIPLY,
    DIVIDE_SCALAR,
    DIVIDE,
    LERP,
    ADD_PRODUCT,
    ADD_QUOTIENT,
    MAXIMUM,
    /* Superinstructions, see peephole.h. */
    SCALE_ADD_SCALED,
    SCALE_ADD_PRODUCT,
    SCALE_ADD_QUOTIENT,
    SCALE_ADD_SIGN,
    SCALE_ADD_SCALED_SUM,
    DIVIDE_ADD_SCALAR,
    ADD_SCALAR_ADD_QUOTIENT,
    DIVIDE_ADD_QUOTIENT,
    ROOT_ADD_QUOTIENT,
    ROOT_DIVIDE_ADD_QUOTIENT,
    /* Superinstructions with two results: the second is in place of c. */
    LERP_AND_ADD_SQUARE,
    ADD_SCALED_AND_ADD_RESULT,
};

typedef struct {
    int operation, result, a, b, c;
    double scalar;
    /* Of superinstructions: what a is multiplied by beforehand, and what else was taken up. Every
     * number times 1 is itself, so that one loop does whether a is multiplied or not. */
    double scale, scalar2, scalar3;
} Instruction;

typedef struct {
    Instruction instructions[MOST_INSTRUCTIONS];
    long length;
} Program;

typedef struct {
    const int64_t *pointers; /* inputs x count addresses, register by register */
    const int64_t *sizes;    /* count numbers of elements */
    long inputs, count;
    long chunk; /* how many elements to take at a time: at most CHUNK */
} Tensors;

/* A tensor, and where in the array of all elements its first one is: how far a thread has come.
 * Looking for an element from here is a short way when pieces follow each other. */
typedef struct {
    long tensor, start;
} Place;

typedef struct {
    int64_t begin, end;
} Range;

/* One call of the kernel: tensors of one dtype with one step count, what was written down about them
 * when the step was cached, and the program to run on them. The fields are those of library.py.
 *
 * Everything is written by the one thread that has Python's lock, for as long as a call lasts. */
typedef struct {
    /* What the guards compare with; see guards.c. Nothing where there is no parameter to ask. */
    void *const *tensors;       /* for each parameter: itself, its state tensors, its step count */
    void *const *state_dicts;   /* for each parameter: its state dict */
    void *const *names;         /* what state tensors and step count are called there */
    void **gradients;           /* room for count references, held during the call */
    const int64_t *layouts;     /* for each parameter: ndim, its shape, its strides */
    Range *written;             /* memory that its batch writes, in ascending order */
    /* What is run. */
    int64_t *pointers;          /* inputs x count addresses, register by register */
    const int64_t *sizes;       /* count numbers of elements */
    int64_t *steps;             /* step_count addresses of step counts */
    double *code;               /* the step that is coming, then six numbers for each instruction */
    long length, inputs, count, total, step_count, written_count;
    int is_double, steps_are_double, threads;
    int superinstructions;      /* whether they may be used */
} Launch;

/* How a call ended. Unless it is done nothing was changed. */
enum {
    NOT_DONE = 0,      /* something is not as it was written down, or no program, or no memory */
    DONE = 1,
    DONE_BY_FEWER = 2, /* of the threads: the others have another floating-point mode */
};

int optimlab_can_run(const Launch *launch);
int optimlab_run(Launch *launch);

#endif
