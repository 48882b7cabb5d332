/* Superinstructions: what two to five instructions do to the same numbers, in one pass over them.
 *
 * A peephole pass goes over a program before it runs, and joins each instruction to the next that
 * takes up its result, if nothing else does. The numbers are rounded as before; only the trip through
 * memory in between is saved. */

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
static void make_superinstructions(Program *program, long inputs)
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
