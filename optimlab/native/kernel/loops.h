/* The instructions over one chunk, for one number type and one instruction set.
 *
 * Included several times by interpreter.c, with REAL, ROOT (a function of roots.h that takes the
 * square roots of a chunk), FMA and NAME(...) defined, and ADD_QUOTIENT_OF_ROOT where there is a
 * faster function for roots like MKL's. Every loop rounds as the ATen operation of the same name
 * does on CPU; the products and sums that ATen contracts are written as FMA here, and the compiler
 * is told to contract nothing by itself.
 */

/* The superinstructions that take a root. */
static void NAME(add_quotient_of_root)(const Instruction *instruction, long n, REAL *d,
                                       const REAL *a, const REAL *b, const REAL *c, REAL *root)
{
    const REAL scale = (REAL)instruction->scale, s = (REAL)instruction->scalar;
    const REAL s2 = (REAL)instruction->scalar2, s3 = (REAL)instruction->scalar3;
    ROOT(n, root, c);
    if (instruction->operation == ROOT_DIVIDE_ADD_QUOTIENT)
        EACH d[i] = a[i] * scale + (s * b[i]) / (root[i] / s3 + s2);
    else
        EACH d[i] = a[i] * scale + (s * b[i]) / (root[i] + s2);
}

static void NAME(execute)(const Instruction *instruction, long n, REAL *d, const REAL *a,
                            const REAL *b, REAL *c, REAL *root)
{
    const REAL scale = (REAL)instruction->scale, s = (REAL)instruction->scalar;
    const REAL s2 = (REAL)instruction->scalar2, s3 = (REAL)instruction->scalar3;
    switch (instruction->operation) {
    case COPY:
        EACH d[i] = a[i];
        break;
    case NEGATE:
        EACH d[i] = -a[i];
        break;
    case ABSOLUTE:
        EACH d[i] = ABS(a[i]);
        break;
    case SIGN:
        EACH d[i] = (REAL)((a[i] > 0) - (a[i] < 0));
        break;
    case SQUARE_ROOT:
        ROOT(n, d, a);
        break;
    case RECIPROCAL:
        EACH d[i] = 1 / a[i];
        break;
    case ADD_SCALED:
        EACH d[i] = FMA(b[i], s, a[i]);
        break;
    case ADD_SCALAR:
        EACH d[i] = a[i] + s;
        break;
    case MULTIPLY_SCALAR:
        EACH d[i] = a[i] * s;
        break;
    case MULTIPLY:
        EACH d[i] = a[i] * b[i];
        break;
    case DIVIDE_SCALAR:
        EACH d[i] = a[i] / s;
        break;
    case DIVIDE:
        EACH d[i] = a[i] / b[i];
        break;
    case LERP:
        if (ABS(s) < (REAL)0.5)
            EACH d[i] = FMA(s, b[i] - a[i], a[i]);
        else
            EACH d[i] = FMA(b[i] - a[i], -(1 - s), b[i]);
        break;
    case ADD_PRODUCT:
        EACH d[i] = FMA(s * b[i], c[i], a[i]);
        break;
    case ADD_QUOTIENT:
        EACH d[i] = a[i] + (s * b[i]) / c[i];
        break;
    case MAXIMUM:
        EACH d[i] = a[i] != a[i] ? a[i] : (b[i] != b[i] ? b[i] : (a[i] < b[i] ? b[i] : a[i]));
        break;
    /* Superinstructions: what two to five of the above do to the same numbers, in one pass. The results in
     * between are not kept. */
    case SCALE_ADD_SCALED:
        EACH d[i] = FMA(b[i], s, a[i] * scale);
        break;
    case SCALE_ADD_PRODUCT:
        EACH d[i] = FMA(s * b[i], c[i], a[i] * scale);
        break;
    case SCALE_ADD_QUOTIENT:
        EACH d[i] = a[i] * scale + (s * b[i]) / c[i];
        break;
    case SCALE_ADD_SIGN:
        EACH d[i] = FMA((REAL)((b[i] > 0) - (b[i] < 0)), s, a[i] * scale);
        break;
    case SCALE_ADD_SCALED_SUM:
        EACH d[i] = FMA(FMA(c[i], s2, b[i]), s, a[i] * scale);
        break;
    case DIVIDE_ADD_SCALAR:
        EACH d[i] = a[i] / s3 + s;
        break;
    case ADD_SCALAR_ADD_QUOTIENT:
        EACH d[i] = a[i] * scale + (s * b[i]) / (c[i] + s2);
        break;
    case DIVIDE_ADD_QUOTIENT:
        EACH d[i] = a[i] * scale + (s * b[i]) / (c[i] / s3 + s2);
        break;
    case ROOT_ADD_QUOTIENT:        /* a * scale + (s * b) / (sqrt(c) + s2) */
    case ROOT_DIVIDE_ADD_QUOTIENT: /* a * scale + (s * b) / (sqrt(c) / s3 + s2) */
#ifdef ADD_QUOTIENT_OF_ROOT
        if (root_mode_float == ROOT_LIKE_MKL) {
            ADD_QUOTIENT_OF_ROOT(instruction, n, d, a, b, c);
            break;
        }
#endif
        NAME(add_quotient_of_root)(instruction, n, d, a, b, c, root);
        break;
    /* With two results. Everything is read before anything is written: a processor may take
     * what lies a multiple of 4096 bytes apart for the same, and wait. */
    case LERP_AND_ADD_SQUARE:
        if (ABS(s) < (REAL)0.5)
            EACH {
                const REAL from = a[i], to = b[i], squares = c[i] * scale;
                d[i] = FMA(s, to - from, from);
                c[i] = FMA(s2 * to, to, squares);
            }
        else
            EACH {
                const REAL from = a[i], to = b[i], squares = c[i] * scale;
                d[i] = FMA(to - from, -(1 - s), to);
                c[i] = FMA(s2 * to, to, squares);
            }
        break;
    case ADD_SCALED_AND_ADD_RESULT:
        EACH {
            const REAL scaled = c[i] * s3, sum = FMA(b[i], s, a[i] * scale);
            d[i] = sum;
            c[i] = FMA(sum, s2, scaled);
        }
        break;
    }
}

static void NAME(run_chunk)(const Program *program, REAL *const *bases, REAL *root, long n)
{
    for (long k = 0; k < program->length; k++) {
        const Instruction *instruction = &program->instructions[k];
        NAME(execute)(instruction, n, bases[instruction->result], bases[instruction->a],
                        bases[instruction->b], bases[instruction->c], root);
    }
}

/* The elements first to last - 1 of all tensors, counted as if they were one. The place is any to
 * begin with, and afterwards where the last element is; scratch is SCRATCH bytes of the thread's. */
static void NAME(run_range)(const Program *program, const Tensors *tensors, Place *place,
                            void *scratch, long first, long last)
{
    const long inputs = tensors->inputs, chunk = tensors->chunk;
    REAL *bases[MOST_INPUTS + TEMPORARIES], *root = (REAL *)scratch + TEMPORARIES * chunk;
    for (long r = 0; r < TEMPORARIES; r++)
        bases[inputs + r] = (REAL *)scratch + r * chunk;

    long t = place->tensor, start = place->start;
    while (start > first)
        start -= tensors->sizes[--t];
    for (;;) {
        const long size = tensors->sizes[t];
        const long stop = last - start < size ? last - start : size;
        long i = first > start ? first - start : 0;
        for (long r = 0; r < inputs; r++)
            bases[r] = (REAL *)tensors->pointers[r * tensors->count + t] + i;
        while (i < stop) {
            const long n = stop - i < chunk ? stop - i : chunk;
            NAME(run_chunk)(program, bases, root, n);
            for (long r = 0; r < inputs; r++)
                bases[r] += n;
            i += n;
        }
        if (last - start <= size || t + 1 == tensors->count)
            break;
        start += size;
        t++;
    }
    *place = (Place){t, start};
}
