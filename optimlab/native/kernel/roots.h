/* Square roots, one function for each instruction set: the one operation for which ATen may ask
 * another library (MKL's vector mathematics). */

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
__attribute__((target(FOR_AVX512))) static inline __m512 root_like_mkl_of_16(const float *a)
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
__attribute__((target(FOR_AVX512))) static inline __mmask16 odd_of_16(const float *a)
{
    const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(a));
    const __m512i from_smallest = _mm512_sub_epi32(bits, _mm512_set1_epi32(0x00800000));
    const __m512i span = _mm512_set1_epi32(0x7effffff - 0x00800000);
    return _mm512_cmpgt_epu32_mask(from_smallest, span);
}

__attribute__((target(FOR_AVX512), noinline)) static __m512 root_of_odd_16(const float *a)
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

__attribute__((target(FOR_AVX512))) static inline __m512 root_of_16(const float *a)
{
    return __builtin_expect(odd_of_16(a) == 0, 1) ? root_like_mkl_of_16(a) : root_of_odd_16(a);
}

/* Two vectors at a time have the processor work on one while it waits for the other. */
__attribute__((target(FOR_AVX512))) static inline void root_of_32(const float *a, __m512 roots[2])
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
__attribute__((target(FOR_AVX512))) static inline __m512 root_of_some(__mmask16 which,
                                                                       const float *a)
{
    float some[16];
    _mm512_storeu_ps(some, _mm512_mask_loadu_ps(_mm512_set1_ps(1), which, a));
    return root_of_16(some);
}

__attribute__((target(FOR_AVX512))) static void root_float_avx512(long n, float *d, const float *a)
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
__attribute__((target(FOR_AVX512), always_inline)) static inline __m512
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

__attribute__((target(FOR_AVX512), always_inline)) static inline void
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

/* The superinstructions that take a root, which never leaves its register; only for roots like
 * MKL's. */
__attribute__((target(FOR_AVX512))) static void
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
