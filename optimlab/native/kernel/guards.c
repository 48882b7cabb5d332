/* Guards: what is asked of everything that a step touches, before the step changes any of it.
 *
 * Between two steps anything may have happened to a tensor. What was written down when the step was
 * cached is compared with what stands there now, tensor after tensor, and where each of them lies is
 * taken up anew, so that no outdated address is ever used. optimlab_step asks about all of a step
 * and then runs all of it, in one call. First comes what may run other people's code, or give up
 * Python's lock for a moment, as many functions of torch do: asking for gradients, and whether a
 * tensor is a lazy negation. Then it asks where everything lies, and runs; from the first of these
 * answers to the last element the lock is kept, and neither another thread nor a signal handler can
 * move what was looked at. The price is that other threads of Python wait for the arithmetic.
 *
 * The layout of a tensor or of any other object of Python is not known here: torch describes its
 * tensors through DLPack's table of functions, and Python is asked through functions of its stable
 * ABI, whose addresses the caller hands over. So the library fits every Python and every torch.
 *
 * Read it from the end: each function stands below those that it calls, and optimlab_step is last.
 */

#include <stdlib.h>

#include "float_mode.h"
#include "program.h"

/* Functions and objects of Python, and of torch; the fields are those of guards.py. */
typedef struct {
    void *(*get_attribute)(void *object, void *name);    /* PyObject_GetAttr, a new reference */
    void *(*type_of)(void *object);                      /* PyObject_Type, a new reference */
    void (*let_go)(void *object);                        /* Py_DecRef */
    void *(*entry_of)(void *dict, void *name);           /* PyDict_GetItemWithError, borrowed */
    int (*next_entry)(void *dict, ptrdiff_t *position, void **name, void **value);
    ptrdiff_t (*length_of)(void *list);                  /* PyList_Size */
    void *(*member_of)(void *list, ptrdiff_t place);     /* PyList_GetItem, borrowed */
    void *(*call)(void *function, ...);                  /* PyObject_CallFunctionObjArgs, new */
    void (*forget_error)(void);                          /* PyErr_Clear */
    int (*describe)(void *tensor, void *answer);         /* of DLPack's table */
    void *grad, *is_neg;                                 /* the string "grad", Tensor.is_neg */
    void *tensor_type, *parameter_type;
    void *none, *false_object;
} Python;

/* In place of a value that may be anything; the number is that of guards.py. */
enum { ANYTHING = 1 };

/* A list or a dict, and which objects it must hold, in which order. */
typedef struct {
    void *object;
    void *const *names, *const *values;
    long count, is_dict;
} IdentityGuard;

static int holds_same_objects(const Python *python, const IdentityGuard *guard)
{
    void *name, *value;
    ptrdiff_t position = 0;
    if (!guard->is_dict && python->length_of(guard->object) != guard->count)
        return 0;
    for (long k = 0; k < guard->count; k++) {
        if (guard->is_dict) {
            if (!python->next_entry(guard->object, &position, &name, &value) ||
                name != guard->names[k])
                return 0;
        } else {
            value = python->member_of(guard->object, k);
        }
        if (value != guard->values[k] && (intptr_t)guard->values[k] != ANYTHING)
            return 0;
    }
    return !guard->is_dict || !python->next_entry(guard->object, &position, &name, &value);
}

/* Whether lists and dicts still hold the same objects, in the same order. */
int optimlab_stayed(const Python *python, const IdentityGuard *guards, long count)
{
    for (long k = 0; k < count; k++)
        if (!holds_same_objects(python, &guards[k]))
            return 0;
    return 1;
}

/* What DLPack's table of functions tells of a tensor (the structure DLTensor of dlpack.h). */
typedef struct {
    char *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t type_code, type_bits;
    uint16_t type_lanes;
    const int64_t *shape, *strides;
    uint64_t byte_offset;
} Described;

enum { ON_CPU = 1, FLOATING_POINT = 2 };

/* Whether a tensor lies in memory as a layout says. Strides count where there is a next element. */
static int is_laid_out(const Described *tensor, const int64_t *layout)
{
    const int64_t ndim = layout[0], *shape = layout + 1, *strides = shape + ndim;
    if (tensor->ndim != ndim)
        return 0;
    int is_empty = 0, is_like = 1;
    for (int64_t k = 0; k < ndim; k++) {
        if (tensor->shape[k] != shape[k])
            return 0;
        is_empty |= shape[k] == 0;
        is_like &= shape[k] == 1 || tensor->strides[k] == strides[k];
    }
    return is_like || is_empty;
}

static int64_t size_of(const int64_t *layout)
{
    int64_t size = 1;
    for (int64_t k = 1; k <= layout[0]; k++)
        size *= layout[k];
    return size;
}

/* The address of a tensor of plain numbers, or -1 if it is anything else. */
static int64_t address_of(const Python *python, void *object, long bits, Described *tensor)
{
    if (python->describe(object, tensor)) {
        python->forget_error(); /* a sparse tensor, for one, has no address */
        return -1;
    }
    if (tensor->device_type != ON_CPU || tensor->type_code != FLOATING_POINT ||
        tensor->type_bits != bits || tensor->type_lanes != 1)
        return -1;
    const int64_t address = (int64_t)(tensor->data + tensor->byte_offset);
    return address % (bits / 8) == 0 ? address : -1;
}

/* Whether memory that is read shares nothing with memory that is written. */
static int is_apart(const Launch *launch, int64_t begin, int64_t end)
{
    long low = 0, high = launch->written_count;
    while (low < high) { /* the first range that ends behind begin */
        const long middle = (low + high) / 2;
        if (launch->written[middle].end > begin)
            high = middle;
        else
            low = middle + 1;
    }
    return begin == end || low == launch->written_count || launch->written[low].begin >= end;
}

static long bytes_of(int is_double)
{
    return is_double ? 8 : 4;
}

static Range *add_range(Range *next, int64_t begin, int64_t bytes)
{
    if (bytes)
        *next++ = (Range){begin, begin + bytes};
    return next;
}

static int compare_ranges(const void *a, const void *b)
{
    const int64_t first = ((const Range *)a)->begin, second = ((const Range *)b)->begin;
    return (first > second) - (first < second);
}

/* List anew what a batch writes, after something of it has moved; return whether nothing of that
 * overlaps. A batch is a series of launches with one list. */
static int list_written(Launch *const *launches, long count)
{
    Range *const written = launches[0]->written;
    Range *next = written;
    for (long k = 0; k < count; k++) {
        const Launch *launch = launches[k];
        const long bytes = bytes_of(launch->is_double);
        for (long r = 0; r < launch->inputs; r++)
            for (long t = 0; t < launch->count && r != 1; t++) /* all but gradients */
                next = add_range(next, launch->pointers[r * launch->count + t],
                                 launch->sizes[t] * bytes);
        for (long t = 0; t < launch->step_count; t++)
            next = add_range(next, launch->steps[t], bytes_of(launch->steps_are_double));
    }
    const long ranges = next - written;
    qsort(written, (size_t)ranges, sizeof *next, compare_ranges);
    for (long k = 0; k < count; k++)
        launches[k]->written_count = ranges;
    for (long k = 1; k < ranges; k++)
        if (written[k - 1].end > written[k].begin)
            return 0;
    return 1;
}

/* Whether no gradient lies where something is written. */
static int gradients_are_apart(const Launch *launch)
{
    const int64_t *gradients = launch->pointers + launch->count;
    for (long t = 0; t < launch->count; t++)
        if (!is_apart(launch, gradients[t],
                      gradients[t] + launch->sizes[t] * bytes_of(launch->is_double)))
            return 0;
    return 1;
}

/* Whether an object is a tensor of a type that overrides nothing. */
static int is_plain(const Python *python, void *object, int is_parameter)
{
    void *type = python->type_of(object);
    python->let_go(type);
    return type == python->tensor_type || (is_parameter && type == python->parameter_type);
}

/* Whether a tensor is its memory as it stands there, and no lazy negation of it. Meanwhile other
 * threads may run. */
static int is_not_negated(const Python *python, void *object)
{
    void *answer = python->call(python->is_neg, object, NULL);
    if (!answer) {
        python->forget_error(); /* no tensor, such as a gradient that is None */
        return 0;
    }
    python->let_go(answer); /* False is never freed */
    return answer == python->false_object;
}

/* Take up where a tensor lies, and note when it has moved; return whether it lies as it did. */
static int lies_alike(const Python *python, const Launch *launch, void *object,
                      const int64_t *layout, int64_t *pointer, int *has_moved)
{
    Described tensor;
    const int64_t address = address_of(python, object, launch->is_double ? 64 : 32, &tensor);
    if (address == -1 || !is_laid_out(&tensor, layout))
        return 0;
    if (!tensor.data && size_of(layout))
        return 0; /* zeros that are nowhere, or memory that was taken away */
    *has_moved |= address != *pointer;
    *pointer = address;
    return 1;
}

/* The same for a step count. */
static int is_counted(const Python *python, const Launch *launch, void *object, int64_t *pointer,
                      int *has_moved)
{
    Described tensor;
    if (!is_plain(python, object, 0))
        return 0;
    const int64_t address = address_of(python, object, launch->steps_are_double ? 64 : 32, &tensor);
    if (address == -1 || !tensor.data)
        return 0;
    for (int32_t k = 0; k < tensor.ndim; k++)
        if (tensor.shape[k] != 1)
            return 0;
    *has_moved |= address != *pointer;
    *pointer = address;
    return 1;
}

/* Whether state tensors and step count are the objects that they were, and lie as they did. */
static int state_holds(const Python *python, const Launch *launch, long t, void *const *state,
                       const int64_t *layout, int *has_moved)
{
    const long states = launch->inputs - 2, counts = launch->step_count > 0;
    int64_t *pointer = launch->pointers + t + 2 * launch->count;
    for (long k = 0; k < states + counts; k++)
        if (python->entry_of(launch->state_dicts[t], launch->names[k]) != state[k])
            return 0;
    for (long k = 0; k < states; k++, pointer += launch->count)
        if (!is_plain(python, state[k], 0) ||
            !lies_alike(python, launch, state[k], layout, pointer, has_moved))
            return 0;
    return !counts || is_counted(python, launch, state[states], &launch->steps[t], has_moved);
}

/* Whether a parameter has made as many steps as the program was written for. */
static int counts_alike(const Launch *launch, long t)
{
    const void *count = (const void *)launch->steps[t];
    const double made = launch->steps_are_double ? *(const double *)count : *(const float *)count;
    return made == launch->code[0] - 1;
}

/* Whether all that a launch touches is as it was written down, but for where it lies. */
static int holds(const Python *python, const Launch *launch, int is_owned, int *has_moved)
{
    const long each = 1 + launch->inputs - 2 + (launch->step_count > 0);
    const int64_t *layout = launch->layouts;
    for (long t = 0; t < launch->count; t++, layout += 1 + 2 * layout[0]) {
        void *const *tensors = launch->tensors + t * each;
        int64_t *pointers = launch->pointers + t, *gradient = pointers + launch->count;
        int is_elsewhere = 0;
        if (!is_plain(python, tensors[0], 1) ||
            !lies_alike(python, launch, tensors[0], layout, pointers, has_moved) ||
            !is_plain(python, launch->gradients[t], 0) ||
            !lies_alike(python, launch, launch->gradients[t], layout, gradient, &is_elsewhere) ||
            (!is_owned && !state_holds(python, launch, t, tensors + 1, layout, has_moved)) ||
            (launch->step_count && !counts_alike(launch, t)))
            return 0;
        /* If something has moved that is written, all gradients are compared later. */
        if (is_elsewhere && !*has_moved &&
            !is_apart(launch, *gradient,
                      *gradient + launch->sizes[t] * bytes_of(launch->is_double)))
            return 0;
    }
    return 1;
}

/* Whether all launches hold. Some may lie elsewhere than before, as long as nothing overlaps. */
static int all_hold(const Python *python, Launch *const *launches, long count, int is_owned)
{
    for (long first = 0, next; first < count; first = next) {
        int has_moved = 0;
        const Range *written = launches[first]->written;
        for (next = first; next < count && launches[next]->written == written; next++)
            if (!holds(python, launches[next], is_owned, &has_moved))
                return 0;
        if (!has_moved)
            continue;
        if (!list_written(&launches[first], next - first))
            return 0;
        for (long k = first; k < next; k++)
            if (!gradients_are_apart(launches[k]))
                return 0;
    }
    return 1;
}

/* Hold the gradients of a step, which nobody else may do while it is computed. Asking a parameter
 * may run anybody's code. */
static int take_gradients(const Python *python, const Launch *launch)
{
    const long each = 1 + launch->inputs - 2 + (launch->step_count > 0);
    for (long t = 0; t < launch->count; t++) {
        launch->gradients[t] = python->get_attribute(launch->tensors[t * each], python->grad);
        if (!launch->gradients[t]) {
            python->forget_error();
            return 0;
        }
    }
    return 1;
}

/* Whether all tensors of a launch are what stands in their memory. */
static int none_is_negated(const Python *python, const Launch *launch, int is_owned)
{
    const long each = 1 + launch->inputs - 2 + (launch->step_count > 0);
    for (long t = 0; t < launch->count; t++) {
        if (!is_not_negated(python, launch->gradients[t]))
            return 0;
        for (long k = 0; k < (is_owned ? 1 : each); k++)
            if (!is_not_negated(python, launch->tensors[t * each + k]))
                return 0;
    }
    return 1;
}

static void let_go_of_gradients(const Python *python, const Launch *launch)
{
    for (long t = 0; t < launch->count; t++) {
        void *gradient = launch->gradients[t];
        launch->gradients[t] = NULL;
        if (gradient)
            python->let_go(gradient); /* which may run anybody's code */
    }
}

/* Whether parameters that took no part in a step have no gradient now. */
static int have_no_gradient(const Python *python, void *const *params, long count)
{
    for (long k = 0; k < count; k++) {
        void *gradient = python->get_attribute(params[k], python->grad);
        if (!gradient) {
            python->forget_error();
            return 0;
        }
        python->let_go(gradient);
        if (gradient != python->none)
            return 0;
    }
    return 1;
}

/* Whether all that a step touches is as it was when it was cached, so that it can be made.
 *
 * First comes all that may let others run; from the last question of that kind on Python's lock is
 * kept, and no code of anybody else's runs. */
static int can_step(const Python *python, Launch *const *launches, long count, void *const *others,
                    long other_count, const char *escaped)
{
    const int is_owned = escaped != NULL;
    for (long k = 0; k < count; k++)
        if (!take_gradients(python, launches[k]))
            return 0;
    if (!have_no_gradient(python, others, other_count))
        return 0;
    for (long k = 0; k < count; k++)
        if (!none_is_negated(python, launches[k], is_owned))
            return 0;
    if ((is_owned && *escaped) || float_mode() != USUAL_MODE ||
        !all_hold(python, launches, count, is_owned))
        return 0;
    for (long k = 0; k < count; k++)
        if (!optimlab_can_run(launches[k]))
            return 0;
    return 1;
}

/* Make a whole step, or change nothing.
 *
 * launches: what is to be run, one after the other; their gradients are NULL between calls.
 * others: other_count parameters that must have no gradient.
 * escaped: 0 as long as nobody can have changed anything about the state, which then need not be
 *   looked at; NULL where it has to be. */
int optimlab_step(const Python *python, Launch *const *launches, long count, void *const *others,
                  long other_count, const char *escaped)
{
    int status = NOT_DONE;
    if (can_step(python, launches, count, others, other_count, escaped)) {
        status = DONE;
        for (long k = 0; k < count; k++)
            if (optimlab_run(launches[k]) == DONE_BY_FEWER)
                status = DONE_BY_FEWER;
    }
    for (long k = 0; k < count; k++)
        let_go_of_gradients(python, launches[k]);
    return status;
}
