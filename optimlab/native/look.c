/* Looking at every tensor of a step before anything is changed.
 *
 * Between two steps anything may have happened to a tensor. What was written down when the step was
 * planned is compared with what stands there now, tensor after tensor, so that no outdated address
 * is ever used.
 *
 * The layout of a tensor or of any other object of Python is not known here: torch describes its
 * tensors through DLPack's table of functions, and Python is asked through functions of its stable
 * ABI, whose addresses the caller hands over. So the library fits every Python and every torch. All
 * of it must be called with Python's lock held.
 */

#include <stddef.h>
#include <stdint.h>

/* Functions of Python's stable ABI; the fields are those of look.py. */
typedef struct {
    void *(*get_attribute)(void *object, void *name);    /* PyObject_GetAttr, a new reference */
    void *(*type_of)(void *object);                      /* PyObject_Type, a new reference */
    void (*let_go)(void *object);                        /* Py_DecRef */
    void *(*entry_of)(void *dict, void *name);           /* PyDict_GetItemWithError, borrowed */
    int (*next_entry)(void *dict, ptrdiff_t *position, void **name, void **value);
    ptrdiff_t (*length_of)(void *list);                  /* PyList_Size */
    void *(*member_of)(void *list, ptrdiff_t place);     /* PyList_GetItem, borrowed */
    int (*set_member)(void *list, ptrdiff_t place, void *object); /* takes the reference over */
} Python;

/* A list or a dict, and what it held. */
typedef struct {
    void *object;
    void *const *names, *const *values;
    long count, is_dict;
} Collection;

static int stayed(const Python *python, const Collection *was)
{
    void *name, *value;
    ptrdiff_t position = 0;
    if (!was->is_dict && python->length_of(was->object) != was->count)
        return 0;
    for (long k = 0; k < was->count; k++) {
        if (was->is_dict) {
            if (!python->next_entry(was->object, &position, &name, &value) || name != was->names[k])
                return 0;
        } else {
            value = python->member_of(was->object, k);
        }
        if (value != was->values[k])
            return 0;
    }
    return !was->is_dict || !python->next_entry(was->object, &position, &name, &value);
}

/* Whether collections still hold the same objects, in the same order. */
int optimlab_stayed(const Python *python, const Collection *collections, long count)
{
    for (long k = 0; k < count; k++)
        if (!stayed(python, &collections[k]))
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
} Exported;

typedef int (*Export)(void *object, Exported *tensor);

enum { ON_CPU = 1, FLOATING_POINT = 2 };

/* What a step looks at; the fields are those of look.py. */
typedef struct {
    const Python *python;
    Export export;
    void *grad, *tensor_type; /* the string "grad", the class torch.Tensor */
    void *gradients;          /* a list that takes up count gradients */
    void *const *tensors;     /* for each parameter: itself, its state tensors, its step count */
    void *const *held;        /* for each parameter: its state dict */
    void *const *names;       /* what state tensors and step count are called there */
    const int64_t *layouts;   /* for each parameter: ndim, its shape, its strides */
    int64_t *pointers;        /* addresses, stride apart for each register; gradients go in */
    const int64_t *step_pointers;
    const int64_t *begins, *ends; /* memory that is written, in ascending order */
    const int64_t *ahead;         /* where the next parameters' objects are, ahead_each for one */
    long count, stride, states, steps, bits, step_bits, written, ahead_count, ahead_each;
    long is_private; /* whether nobody else can have changed anything about the state */
} Look;

/* Whether a tensor lies in memory as a layout says. Strides count where there is a next element. */
static int is_laid_out(const Exported *tensor, const int64_t *layout)
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
static int64_t address_of(Export export, void *object, long bits, Exported *tensor)
{
    if (export(object, tensor) || tensor->device_type != ON_CPU ||
        tensor->type_code != FLOATING_POINT || tensor->type_bits != bits || tensor->type_lanes != 1)
        return -1;
    const int64_t address = (int64_t)(tensor->data + tensor->byte_offset);
    return address % (bits / 8) == 0 ? address : -1;
}

/* Whether memory that is read shares nothing with memory that is written. */
static int is_apart(const Look *look, int64_t begin, int64_t end)
{
    long low = 0, high = look->written;
    while (low < high) { /* the first range that ends behind begin */
        const long middle = (low + high) / 2;
        if (look->ends[middle] > begin)
            high = middle;
        else
            low = middle + 1;
    }
    return begin == end || low == look->written || look->begins[low] >= end;
}

/* Thousands of small tensors do not stay in a cache from step to step. What belongs to a parameter
 * of the next call is therefore asked for while one of this call is looked at: waiting for all of
 * it together takes little longer than waiting for a part. Nothing is read at these addresses, so
 * that an outdated one does no harm. */
static void fetch_ahead(const Look *look, long t)
{
    if (t < look->ahead_count)
        for (long k = 0; k < look->ahead_each; k++) {
            const void *address = (const void *)look->ahead[t * look->ahead_each + k];
#ifdef __GNUC__
            __builtin_prefetch(address);
            __asm__ volatile("" ::: "memory"); /* or GCC takes the function to do nothing */
#else
            (void)address;
#endif
        }
}

/* Put the gradient of a parameter into the list; it must be no subclass of Tensor. */
static int take_gradient(const Look *look, long t, void *param, void **gradient)
{
    const Python *python = look->python;
    *gradient = python->get_attribute(param, look->grad);
    if (!*gradient)
        return 0;
    void *type = python->type_of(*gradient);
    const int is_tensor = type == look->tensor_type;
    python->let_go(type);
    return !python->set_member(look->gradients, t, *gradient) && is_tensor;
}

/* Whether a tensor lies where and as it did; a gradient may lie where nothing is written. */
static int lies_well(const Look *look, void *object, const int64_t *layout, int64_t *pointer,
                     int is_gradient)
{
    Exported tensor;
    const int64_t address = address_of(look->export, object, look->bits, &tensor);
    if (address == -1 || !is_laid_out(&tensor, layout))
        return 0;
    if (!tensor.data && size_of(layout))
        return 0; /* zeros that are nowhere, or memory that was taken away */
    if (address == *pointer)
        return 1;
    if (!is_gradient || !is_apart(look, address, address + size_of(layout) * (look->bits / 8)))
        return 0;
    *pointer = address;
    return 1;
}

/* Whether a step count lies where it did. */
static int is_counted(const Look *look, void *object, int64_t pointer)
{
    Exported tensor;
    if (address_of(look->export, object, look->step_bits, &tensor) != pointer)
        return 0;
    for (int32_t k = 0; k < tensor.ndim; k++)
        if (tensor.shape[k] != 1)
            return 0;
    return 1;
}

/* Whether state tensors and step count are the objects that they were, and lie where they did. */
static int state_stayed(const Look *look, long t, void *const *state, const int64_t *layout)
{
    int64_t *pointer = look->pointers + t + 2 * look->stride;
    for (long k = 0; k < look->states + look->steps; k++)
        if (look->python->entry_of(look->held[t], look->names[k]) != state[k])
            return 0;
    for (long k = 0; k < look->states; k++, pointer += look->stride)
        if (!lies_well(look, state[k], layout, pointer, 0))
            return 0;
    return !look->steps || is_counted(look, state[look->states], look->step_pointers[t]);
}

static double read_count(const Look *look, long t)
{
    const void *count = (const void *)look->step_pointers[t];
    return look->step_bits == 64 ? *(const double *)count : *(const float *)count;
}

int optimlab_flushes_denormals(void);

/* Look at every tensor of a step: whether parameters, state and step counts are the same and lie
 * where they lay, and gradients lie alike, on memory that nothing writes to. Takes up the gradients
 * and their addresses. Returns the step count that all have in common (0 if steps are not counted),
 * or -1 if anything is not as it should be. */
double optimlab_look(const Look *look)
{
    const long each = 1 + look->states + look->steps;
    const int64_t *layout = look->layouts;
    double common = 0;
    if (optimlab_flushes_denormals())
        return -1; /* worker threads may not do so */
    for (long t = 0; t < look->count; t++, layout += 1 + 2 * layout[0]) {
        void *const *tensors = look->tensors + t * each;
        int64_t *pointers = look->pointers + t;
        void *gradient;
        fetch_ahead(look, t);
        if (!take_gradient(look, t, tensors[0], &gradient) ||
            !lies_well(look, tensors[0], layout, pointers, 0) ||
            !lies_well(look, gradient, layout, pointers + look->stride, 1) ||
            (!look->is_private && !state_stayed(look, t, tensors + 1, layout)))
            return -1;
        if (look->steps) {
            const double count = read_count(look, t);
            if (count < 0 || (t && count != common))
                return -1;
            common = count;
        }
    }
    return common;
}
