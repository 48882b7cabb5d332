/* A machine that runs elementwise programs over many tensors in one pass over memory.
 *
 * It knows instructions such as "d = a + s * b", each rounding exactly as the ATen operation of that
 * meaning does on CPU, and it knows no optimizer. A program is run on chunks small enough to stay
 * in the first-level cache through all of its instructions, so every parameter, gradient and state
 * element is read from memory and written to it once. All tensors count as one long array, of which
 * each thread has a share, and helps with the others' when it is done with its own.
 *
 * There is no Python and no torch in here: raw pointers come in, and the caller checks beforehand
 * that each instruction gives ATen's bits on this processor (trust.py).
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define X86 1
#endif

#ifdef _OPENMP
#include <omp.h>
#endif

/* How many elements go through all instructions at a time, at most. A single instruction is best
 * carried out in long loops, several on what the first-level cache holds with room to spare. What
 * comes from memory is better fetched little by little, during all of the instructions, than all of
 * it during the first that reads it. */
#define CHUNK 1024
#define CHUNK_OF_SEVERAL 256
#define CHUNK_FROM_MEMORY 128
#define BYTES_IN_CACHE (16L << 20)

/* Elements that a thread takes of a share at a time. */
#define PIECE 16384
#define MOST_SHARES 256

#define INPUTS 16
#define TEMPORARIES 8
#define MAX_INSTRUCTIONS 64

/* The numbers are those of tape.py. */
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
    /* Joined ones, see loops.h. */
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
    /* Joined ones with two results: the second is in place of c. */
    LERP_AND_ADD_SQUARE,
    ADD_SCALED_AND_ADD_RESULT,
};

typedef struct {
    int operation, result, a, b, c;
    double scalar;
    /* Of joined instructions: what a is multiplied by beforehand, and what else was taken up. Every
     * number times 1 is itself, so that one loop does whether a is multiplied or not. */
    double scale, scalar2, scalar3;
} Instruction;

typedef struct {
    Instruction instructions[MAX_INSTRUCTIONS];
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

/* How ATen takes a square root in this build of torch: set once, by the caller's checks. */
enum { ROOT_OF_PROCESSOR = 0, ROOT_OF_MKL = 1, ROOT_LIKE_MKL = 2 };

typedef void (*VectorRootFloat)(int n, const float *from, float *to, int64_t mode);
typedef void (*VectorRootDouble)(int n, const double *from, double *to, int64_t mode);

static VectorRootFloat mkl_root_float;
static VectorRootDouble mkl_root_double;
static int (*mkl_set_threads_local)(int);
static int root_mode_float, root_mode_double;

#define MKL_MODE (0x2 | 0x140000 | 0x100) /* high accuracy, no flushing to zero, no error handler */

void optimlab_set_mkl(void *root_float, void *root_double, void *set_threads_local)
{
    memcpy(&mkl_root_float, &root_float, sizeof root_float);
    memcpy(&mkl_root_double, &root_double, sizeof root_double);
    memcpy(&mkl_set_threads_local, &set_threads_local, sizeof set_threads_local);
}

void optimlab_set_roots(int mode_float, int mode_double)
{
    root_mode_float = mode_float;
    root_mode_double = mode_double;
}

/* Square roots, one function for each instruction set. */

static void root_float(long n, float *d, const float *a)
{
    if (root_mode_float != ROOT_OF_PROCESSOR)
        mkl_root_float((int)n, a, d, MKL_MODE);
    else
        for (long i = 0; i < n; i++)
            d[i] = __builtin_sqrtf(a[i]);
}

static void root_double(long n, double *d, const double *a)
{
    if (root_mode_double != ROOT_OF_PROCESSOR)
        mkl_root_double((int)n, a, d, MKL_MODE);
    else
        for (long i = 0; i < n; i++)
            d[i] = __builtin_sqrt(a[i]);
}

#ifdef X86
/* MKL's square root on processors that are not Intel's: an estimate of 1 / sqrt(x), one step of
 * Goldschmidt's iteration and one correction by the residual, none of it contracted. Found from its
 * results alone. Like MKL, it is not always the correctly rounded root. */
__attribute__((target("avx2"))) static inline __m256 root_like_mkl_of_8(const float *a)
{
    const __m256 x = _mm256_loadu_ps(a), half = _mm256_set1_ps(0.5f);
    const __m256 estimate = _mm256_rsqrt_ps(x);
    const __m256 g = _mm256_mul_ps(x, estimate), h = _mm256_mul_ps(half, estimate);
    const __m256 error = _mm256_sub_ps(half, _mm256_mul_ps(g, h));
    const __m256 root = _mm256_add_ps(g, _mm256_mul_ps(g, error));
    const __m256 half_inverse = _mm256_add_ps(h, _mm256_mul_ps(h, error));
    const __m256 residual = _mm256_sub_ps(x, _mm256_mul_ps(root, root));
    return _mm256_add_ps(root, _mm256_mul_ps(half_inverse, residual));
}

/* Which of 8 numbers are not of the exponents 1 to 253, for which the root is like MKL's: below are
 * zero and denormals, above are the largest numbers, infinity, NaN and everything negative. */
__attribute__((target("avx2"))) static inline __m256i odd_of_8(const float *a)
{
    const __m256i smallest = _mm256_set1_epi32(0x00800000), largest = _mm256_set1_epi32(0x7effffff);
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(a));
    return _mm256_or_si256(_mm256_cmpgt_epi32(smallest, bits), _mm256_cmpgt_epi32(bits, largest));
}

__attribute__((target("avx2"))) static inline int is_zero(__m256i bits)
{
    return _mm256_testz_si256(bits, bits);
}

__attribute__((target("avx2"), noinline)) static __m256 root_of_odd_8(const float *a)
{
    const __m256 x = _mm256_loadu_ps(a);
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i not_negative = _mm256_cmpgt_epi32(bits, _mm256_set1_epi32(-1));
    const __m256i smallest = _mm256_set1_epi32(0x00800000);
    const __m256i low = _mm256_and_si256(_mm256_cmpgt_epi32(smallest, bits), not_negative);
    if (is_zero(_mm256_xor_si256(odd_of_8(a), low))) /* of these MKL takes the processor's root */
        return _mm256_blendv_ps(root_like_mkl_of_8(a), _mm256_sqrt_ps(x), _mm256_castsi256_ps(low));
    float roots[8];
    mkl_root_float(8, a, roots, MKL_MODE);
    return _mm256_loadu_ps(roots);
}

__attribute__((target("avx2"))) static inline __m256 root_of_8(const float *a)
{
    return __builtin_expect(is_zero(odd_of_8(a)), 1) ? root_like_mkl_of_8(a) : root_of_odd_8(a);
}

/* The roots of fewer than 8 numbers. */
__attribute__((target("avx2"))) static inline void root_of_rest(long n, float *d, const float *a)
{
    float rest[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    memcpy(rest, a, (size_t)n * sizeof *a);
    _mm256_storeu_ps(rest, root_of_8(rest));
    memcpy(d, rest, (size_t)n * sizeof *d);
}

__attribute__((target("avx2"))) static void root_float_avx2(long n, float *d, const float *a)
{
    if (root_mode_float != ROOT_LIKE_MKL) {
        root_float(n, d, a);
        return;
    }
    long i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(d + i, root_of_8(a + i));
    if (i < n)
        root_of_rest(n - i, d + i, a + i);
}
#endif

#ifdef X86
#define WITH_AVX512 "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,prefer-vector-width=512"

__attribute__((target(WITH_AVX512))) static inline __m512 root_like_mkl_of_16(const float *a)
{
    /* The estimates come from the 256-bit instruction: the 512-bit one has another table. */
    const __m256 lower = _mm256_rsqrt_ps(_mm256_loadu_ps(a));
    const __m256 upper = _mm256_rsqrt_ps(_mm256_loadu_ps(a + 8));
    const __m512 x = _mm512_loadu_ps(a), half = _mm512_set1_ps(0.5f);
    const __m512 estimate = _mm512_insertf32x8(_mm512_castps256_ps512(lower), upper, 1);
    const __m512 g = _mm512_mul_ps(x, estimate), h = _mm512_mul_ps(half, estimate);
    const __m512 error = _mm512_sub_ps(half, _mm512_mul_ps(g, h));
    const __m512 root = _mm512_add_ps(g, _mm512_mul_ps(g, error));
    const __m512 half_inverse = _mm512_add_ps(h, _mm512_mul_ps(h, error));
    const __m512 residual = _mm512_sub_ps(x, _mm512_mul_ps(root, root));
    return _mm512_add_ps(root, _mm512_mul_ps(half_inverse, residual));
}

/* Which of 16 numbers are not of the exponents 1 to 253, for which the root is like MKL's. */
__attribute__((target(WITH_AVX512))) static inline __mmask16 odd_of_16(const float *a)
{
    const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(a));
    const __m512i from_smallest = _mm512_sub_epi32(bits, _mm512_set1_epi32(0x00800000));
    const __m512i span = _mm512_set1_epi32(0x7effffff - 0x00800000);
    return _mm512_cmpgt_epu32_mask(from_smallest, span);
}

__attribute__((target(WITH_AVX512), noinline)) static __m512 root_of_odd_16(const float *a)
{
    const __m512 x = _mm512_loadu_ps(a);
    const __m512i bits = _mm512_castps_si512(x);
    const __mmask16 low = _mm512_cmplt_epu32_mask(bits, _mm512_set1_epi32(0x00800000));
    if (odd_of_16(a) == low) /* only zeros and denormals: there the processor's root is MKL's */
        return _mm512_mask_sqrt_ps(root_like_mkl_of_16(a), low, x);
    float roots[16];
    mkl_root_float(16, a, roots, MKL_MODE);
    return _mm512_loadu_ps(roots);
}

__attribute__((target(WITH_AVX512))) static inline __m512 root_of_16(const float *a)
{
    return __builtin_expect(odd_of_16(a) == 0, 1) ? root_like_mkl_of_16(a) : root_of_odd_16(a);
}

/* Two vectors at a time have the processor work on one while it waits for the other. */
__attribute__((target(WITH_AVX512))) static inline void root_of_32(const float *a, __m512 roots[2])
{
    if (__builtin_expect((odd_of_16(a) | odd_of_16(a + 16)) == 0, 1)) {
        roots[0] = root_like_mkl_of_16(a);
        roots[1] = root_like_mkl_of_16(a + 16);
    } else {
        roots[0] = root_of_16(a);
        roots[1] = root_of_16(a + 16);
    }
}

/* The roots of fewer than 16 numbers, and further ones. */
__attribute__((target(WITH_AVX512))) static inline __m512 root_of_some(__mmask16 which,
                                                                       const float *a)
{
    float some[16];
    _mm512_storeu_ps(some, _mm512_mask_loadu_ps(_mm512_set1_ps(1), which, a));
    return root_of_16(some);
}

__attribute__((target(WITH_AVX512))) static void root_float_avx512(long n, float *d, const float *a)
{
    if (root_mode_float != ROOT_LIKE_MKL) {
        root_float(n, d, a);
        return;
    }
    long i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512 roots[2];
        root_of_32(a + i, roots);
        _mm512_storeu_ps(d + i, roots[0]);
        _mm512_storeu_ps(d + i + 16, roots[1]);
    }
    for (; i < n; i += 16) {
        const __mmask16 which = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : (__mmask16)-1;
        _mm512_mask_storeu_ps(d + i, which, root_of_some(which, a + i));
    }
}

/* a * scale + (s * b) / (root / s3 + s2), of which the multiplication by scale and the division by
 * s3 may be left out. */
__attribute__((target(WITH_AVX512), always_inline)) static inline __m512
sum_with_quotient(const Instruction *instruction, __m512 root, __m512 a, __m512 b, int scales,
                  int divides)
{
    if (scales)
        a = _mm512_mul_ps(a, _mm512_set1_ps((float)instruction->scale));
    if (divides)
        root = _mm512_div_ps(root, _mm512_set1_ps((float)instruction->scalar3));
    const __m512 divisor = _mm512_add_ps(root, _mm512_set1_ps((float)instruction->scalar2));
    const __m512 dividend = _mm512_mul_ps(_mm512_set1_ps((float)instruction->scalar), b);
    return _mm512_add_ps(a, _mm512_div_ps(dividend, divisor));
}

__attribute__((target(WITH_AVX512), always_inline)) static inline void
add_quotients_of_roots(const Instruction *instruction, long n, float *d, const float *a,
                       const float *b, const float *c, int scales, int divides)
{
    const Instruction given = *instruction; /* which no store to d can change */
    long i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512 roots[2];
        root_of_32(c + i, roots);
        for (long k = 0; k < 2; k++)
            roots[k] = sum_with_quotient(&given, roots[k], _mm512_loadu_ps(a + i + 16 * k),
                                         _mm512_loadu_ps(b + i + 16 * k), scales, divides);
        _mm512_storeu_ps(d + i, roots[0]);
        _mm512_storeu_ps(d + i + 16, roots[1]);
    }
    for (; i < n; i += 16) {
        const __mmask16 which = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : (__mmask16)-1;
        const __m512 sum = sum_with_quotient(&given, root_of_some(which, c + i),
                                             _mm512_maskz_loadu_ps(which, a + i),
                                             _mm512_maskz_loadu_ps(which, b + i), scales, divides);
        _mm512_mask_storeu_ps(d + i, which, sum);
    }
}

/* The joined instructions that take a root, which never leaves its register; only for roots like
 * MKL's. */
__attribute__((target(WITH_AVX512))) static void
add_quotient_of_root_in_registers(const Instruction *instruction, long n, float *d, const float *a,
                                  const float *b, const float *c)
{
    const int divides = instruction->operation == ROOT_DIVIDE_ADD_QUOTIENT;
    if (instruction->scale == 1 && divides)
        add_quotients_of_roots(instruction, n, d, a, b, c, 0, 1);
    else if (instruction->scale == 1)
        add_quotients_of_roots(instruction, n, d, a, b, c, 0, 0);
    else if (divides)
        add_quotients_of_roots(instruction, n, d, a, b, c, 1, 1);
    else
        add_quotients_of_roots(instruction, n, d, a, b, c, 1, 0);
}
#endif

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
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define SUFFIX float_avx2
#include "loops.h"
#undef SUFFIX
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,prefer-vector-width=512")
#undef ROOT
#define ROOT root_float_avx512
#define ADD_QUOTIENT_OF_ROOT add_quotient_of_root_in_registers
#define SUFFIX float_avx512
#include "loops.h"
#undef SUFFIX
#undef ADD_QUOTIENT_OF_ROOT
#pragma GCC pop_options
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
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define SUFFIX double_avx2
#include "loops.h"
#undef SUFFIX
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,prefer-vector-width=512")
#define SUFFIX double_avx512
#include "loops.h"
#undef SUFFIX
#pragma GCC pop_options
#endif

typedef void (*RunRange)(const Program *, const Tensors *, Place *, long first, long last);

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

/* Whether the calling thread flushes denormal numbers to zero, which worker threads may not do. */
int optimlab_flushes_denormals(void)
{
#ifdef X86
    return (_mm_getcsr() & 0x8040) != 0;
#else
    volatile float tiny = 1e-45f;
    return tiny * 1.0f == 0.0f;
#endif
}

static int reads(const Instruction *instruction, int reg)
{
    switch (instruction->operation) {
    case COPY:
    case NEGATE:
    case ABSOLUTE:
    case SIGN:
    case SQUARE_ROOT:
    case RECIPROCAL:
    case ADD_SCALAR:
    case MULTIPLY_SCALAR:
    case DIVIDE_SCALAR:
    case DIVIDE_ADD_SCALAR:
        return instruction->a == reg;
    case ADD_SCALED:
    case MULTIPLY:
    case DIVIDE:
    case LERP:
    case MAXIMUM:
    case SCALE_ADD_SCALED:
    case SCALE_ADD_SIGN:
        return instruction->a == reg || instruction->b == reg;
    default:
        return instruction->a == reg || instruction->b == reg || instruction->c == reg;
    }
}

static int is_read_later(const Program *program, long from, int reg)
{
    for (long k = from; k < program->length; k++) {
        const Instruction *i = &program->instructions[k];
        if (reads(i, reg))
            return 1;
        if (i->result == reg)
            return 0;
    }
    return 0;
}

/* The place of the next instruction that an instruction cannot be moved past: it reads or writes
 * the result, or writes what the instruction reads. */
static long next_to_meet(const Program *program, long place)
{
    const Instruction *instruction = &program->instructions[place];
    long k = place + 1;
    for (; k < program->length; k++) {
        const Instruction *other = &program->instructions[k];
        if (reads(other, instruction->result) || other->result == instruction->result ||
            reads(instruction, other->result))
            break;
    }
    return k;
}

/* Let an instruction do what another before it did to its operand a. */
static int join_to_a(const Instruction *first, Instruction *second)
{
    if (first->operation == MULTIPLY_SCALAR) {
        switch (second->operation) {
        case ADD_SCALED:
            second->operation = SCALE_ADD_SCALED;
            break;
        case ADD_PRODUCT:
            second->operation = SCALE_ADD_PRODUCT;
            break;
        case ADD_QUOTIENT:
            second->operation = SCALE_ADD_QUOTIENT;
            break;
        case SCALE_ADD_SIGN:
        case SCALE_ADD_SCALED_SUM:
        case ADD_SCALAR_ADD_QUOTIENT:
        case DIVIDE_ADD_QUOTIENT:
        case ROOT_ADD_QUOTIENT:
        case ROOT_DIVIDE_ADD_QUOTIENT:
            if (second->scale == 1)
                break;
            return 0;
        default:
            return 0;
        }
        second->scale = first->scalar;
    } else if (first->operation == DIVIDE_SCALAR && second->operation == ADD_SCALAR) {
        second->operation = DIVIDE_ADD_SCALAR;
        second->scalar3 = first->scalar;
    } else {
        return 0;
    }
    second->a = first->a;
    return 1;
}

static int join_to_b(const Instruction *first, Instruction *second)
{
    if (second->operation != ADD_SCALED && second->operation != SCALE_ADD_SCALED)
        return 0;
    if (first->operation == SIGN) {
        second->operation = SCALE_ADD_SIGN;
        second->b = first->a;
    } else if (first->operation == ADD_SCALED) {
        second->operation = SCALE_ADD_SCALED_SUM;
        second->b = first->a;
        second->c = first->b;
        second->scalar2 = first->scalar;
    } else {
        return 0;
    }
    return 1;
}

static int join_to_c(const Instruction *first, Instruction *second)
{
    if (first->operation == ADD_SCALAR &&
        (second->operation == ADD_QUOTIENT || second->operation == SCALE_ADD_QUOTIENT)) {
        second->operation = ADD_SCALAR_ADD_QUOTIENT;
        second->scalar2 = first->scalar;
    } else if (first->operation == DIVIDE_SCALAR && second->operation == ADD_SCALAR_ADD_QUOTIENT) {
        second->operation = DIVIDE_ADD_QUOTIENT;
        second->scalar3 = first->scalar;
    } else if (first->operation == SQUARE_ROOT && second->operation == ADD_SCALAR_ADD_QUOTIENT) {
        second->operation = ROOT_ADD_QUOTIENT;
    } else if (first->operation == SQUARE_ROOT && second->operation == DIVIDE_ADD_QUOTIENT) {
        second->operation = ROOT_DIVIDE_ADD_QUOTIENT;
    } else {
        return 0;
    }
    second->c = first->a;
    return 1;
}

/* Do two instructions in one pass where the second takes up the result of the first, as one of its
 * operands only. The numbers are rounded as before; only the trip through memory in between is
 * saved. */
static int join_two(const Instruction *first, Instruction *second)
{
    const int reg = first->result;
    if (second->a == reg) {
        Instruction others = *second;
        others.a = -1;
        return !reads(&others, reg) && join_to_a(first, second);
    }
    if (second->b == reg) /* and there is no c where anything is joined to b */
        return join_to_b(first, second);
    return second->c == reg && join_to_c(first, second);
}

static int adds_scaled(const Instruction *instruction)
{
    return instruction->operation == ADD_SCALED || instruction->operation == SCALE_ADD_SCALED;
}

/* Do two instructions in one pass that both keep their results: they read the same numbers, or the
 * second reads what the first has just computed. */
static int join_results(Instruction *first, const Instruction *second)
{
    if (second->result != second->a || first->result == second->result)
        return 0;
    if (first->operation == LERP && second->operation == SCALE_ADD_PRODUCT &&
        second->b == first->b && second->c == first->b && first->result != first->b) {
        first->operation = LERP_AND_ADD_SQUARE;
        first->scale = second->scale;
    } else if (adds_scaled(first) && adds_scaled(second) && second->b == first->result) {
        first->operation = ADD_SCALED_AND_ADD_RESULT;
        first->scalar3 = second->scale;
    } else {
        return 0;
    }
    first->c = second->a;
    first->scalar2 = second->scalar;
    return 1;
}

static void join_neighbours(Program *program)
{
    long kept = 0;
    for (long k = 1; k < program->length; k++)
        if (!join_results(&program->instructions[kept], &program->instructions[k]))
            program->instructions[++kept] = program->instructions[k];
    program->length = program->length ? kept + 1 : 0;
}

/* Join each instruction to the next that it meets, if nothing else needs its result. From the end
 * to the beginning, so that what an instruction is joined to has taken up all that it can. */
static void join(Program *program, long inputs)
{
    for (long k = program->length - 2; k >= 0; k--) {
        const Instruction first = program->instructions[k];
        const long next = next_to_meet(program, k);
        if (next == program->length)
            continue;
        Instruction *second = &program->instructions[next];
        const int is_kept = second->result != first.result &&
                            (first.result < inputs ||
                             is_read_later(program, next + 1, first.result));
        if (!is_kept && join_two(&first, second)) {
            program->length--;
            memmove(&program->instructions[k], &program->instructions[k + 1],
                    (size_t)(program->length - k) * sizeof first);
        }
    }
    join_neighbours(program);
}

/* Read a program: six numbers for each instruction. Returns 0 if it is not one. */
static int read_program(Program *program, const double *numbers, long length, long inputs)
{
    if (length > MAX_INSTRUCTIONS || inputs > INPUTS)
        return 0;
    program->length = length;
    for (long k = 0; k < length; k++, numbers += 6) {
        const Instruction read = {(int)numbers[0], (int)numbers[1], (int)numbers[2],
                                  (int)numbers[3], (int)numbers[4], numbers[5], 1, 0, 0};
        const long registers = inputs + TEMPORARIES;
        if (read.operation < 0 || read.operation > MAXIMUM || read.result < 0 || read.a < 0 ||
            read.b < 0 || read.c < 0 || read.result >= registers || read.a >= registers ||
            read.b >= registers || read.c >= registers)
            return 0;
        program->instructions[k] = read;
    }
    return 1;
}

/* For tests: how many instructions are left when a program is joined, or -1 if it is not one. */
long optimlab_joined_length(const double *numbers, long length, long inputs)
{
    Program program;
    if (!read_program(&program, numbers, length, inputs))
        return -1;
    join(&program, inputs);
    return program.length;
}

/* Add 1 to every step count. */
static void count_steps(const int64_t *pointers, long count, int is_double)
{
    for (long t = 0; t < count; t++) {
        if (is_double)
            *(double *)pointers[t] += 1;
        else
            *(float *)pointers[t] += 1;
    }
}

/* What is to be run; the fields are those of library.py. */
typedef struct {
    const double *numbers;   /* six for each instruction: operation, result, a, b, c, scalar */
    const int64_t *pointers; /* inputs x count addresses, register by register */
    const int64_t *sizes;    /* count numbers of elements */
    const int64_t *steps;    /* step_count addresses of step counts */
    long length, inputs, count, total, step_count;
    int is_double, steps_are_double, threads, joined;
} Task;

/* What a thread has to do, piece after piece, and what others may take of it when they are done.
 * Each share has cache lines of its own, because every thread writes to its own all the time. */
typedef struct {
    long next, last;
} __attribute__((aligned(128))) Share;

/* Divide an array evenly, with borders on its cache lines, so that few lines are shared. */
static void divide(Share *shares, long count, long total)
{
    const long size = ((total + count - 1) / count + 63) / 64 * 64;
    for (long k = 0; k < count; k++) {
        const long last = (k + 1) * size;
        shares[k] = (Share){k * size, last < total ? last : total};
    }
}

/* Work on all shares, beginning with one's own. The processors of a machine are not equally fast,
 * nor equally free; an element's result does not depend on who computes it. */
static void run_shares(const Program *program, const Tensors *tensors, RunRange run_range,
                       Share *shares, long count, long own)
{
    Place place = {0, 0};
    for (long k = 0; k < count; k++) {
        Share *share = &shares[(own + k) % count];
        /* Look before taking: what is not written to can be read by all threads at once. */
        while (__atomic_load_n(&share->next, __ATOMIC_RELAXED) < share->last) {
            const long first = __atomic_fetch_add(&share->next, PIECE, __ATOMIC_RELAXED);
            const long last = first + PIECE < share->last ? first + PIECE : share->last;
            if (first < last)
                run_range(program, tensors, &place, first, last);
        }
    }
}

static int asks_mkl(const Program *program, int is_double)
{
    if ((is_double ? root_mode_double : root_mode_float) != ROOT_OF_MKL)
        return 0;
    for (long k = 0; k < program->length; k++) {
        const int operation = program->instructions[k].operation;
        if (operation == SQUARE_ROOT || operation == ROOT_ADD_QUOTIENT ||
            operation == ROOT_DIVIDE_ADD_QUOTIENT)
            return 1;
    }
    return 0;
}

static long chunk_for(const Program *program, const Task *task)
{
    const long bytes = task->total * task->inputs * (task->is_double ? 8 : 4);
    if (program->length == 1)
        return CHUNK;
    if (bytes > BYTES_IN_CACHE)
        return CHUNK_FROM_MEMORY;
    /* MKL takes its time to begin. */
    return asks_mkl(program, task->is_double) ? CHUNK : CHUNK_OF_SEVERAL;
}

/* Run a program over all tensors, and count the step.
 *
 * Registers below inputs are tensors, those above are temporaries; total is the sum of the sizes.
 * Returns 0, having changed nothing, if it is no program of this machine. */
int optimlab_run(const Task *task)
{
    Program program;
    if (!read_program(&program, task->numbers, task->length, task->inputs))
        return 0;
    if (task->joined)
        join(&program, task->inputs);
    const Tensors tensors = {task->pointers, task->sizes, task->inputs, task->count,
                             chunk_for(&program, task)};
    const RunRange run_range = run_range_for(task->is_double);
    count_steps(task->steps, task->step_count, task->steps_are_double);
    const int threads = task->threads < MOST_SHARES ? task->threads : MOST_SHARES;
    Share shares[MOST_SHARES];
    divide(shares, threads > 1 ? threads : 1, task->total);
#ifdef _OPENMP
    if (threads > 1) {
        /* There may come fewer threads than asked for: then they take the other shares, too. */
#pragma omp parallel num_threads(threads)
        {
            /* MKL would start threads of its own inside this region. */
            const int before = mkl_set_threads_local ? mkl_set_threads_local(1) : 0;
            run_shares(&program, &tensors, run_range, shares, threads, omp_get_thread_num());
            if (mkl_set_threads_local)
                mkl_set_threads_local(before);
        }
        return 1;
    }
#endif
    run_shares(&program, &tensors, run_range, shares, threads > 1 ? threads : 1, 0);
    return 1;
}
