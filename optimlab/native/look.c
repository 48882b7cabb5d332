/* Looking at every tensor of a step before anything is changed.
 *
 * Between two steps anything may have happened to a tensor. What was written down when the step was
 * planned is compared with what stands there now, tensor after tensor, so that no outdated address
 * is ever used. torch describes its tensors through DLPack's table of functions; the layout of a
 * tensor object is not known here.
 */

#include <stddef.h>
#include <stdint.h>

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

/* What a step looks at before anything is changed; the fields are those of look.py. */
typedef struct {
    Export export;
    void *const *objects;    /* inputs x count tensors, register by register; gradients second */
    void *const *gradients;  /* count tensors, those of this step */
    int64_t *pointers;       /* their addresses, stride apart for each register; gradients go in */
    const int64_t *layouts;  /* for each tensor of a register: ndim, its shape, its strides */
    long inputs, count, stride, bits;
    void *const *steps;      /* the step counts: step_count tensors of one element */
    const int64_t *step_pointers;
    long step_count, step_bits;
    const int64_t *begins, *ends; /* memory that is written, in ascending order */
    long written;
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

static int is_plain(Export export, void *object, long bits, Exported *tensor)
{
    return !export(object, tensor) && tensor->device_type == ON_CPU &&
           tensor->type_code == FLOATING_POINT && tensor->type_bits == bits &&
           tensor->type_lanes == 1 &&
           (uintptr_t)(tensor->data + tensor->byte_offset) % (uintptr_t)(bits / 8) == 0;
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

static int64_t size_of(const int64_t *layout)
{
    int64_t size = 1;
    for (int64_t k = 1; k <= layout[0]; k++)
        size *= layout[k];
    return size;
}

/* The step count that all tensors have in common, or -1 if they differ or one lies elsewhere. */
static double common_step(const Look *look)
{
    double first = 0;
    for (long t = 0; t < look->step_count; t++) {
        Exported tensor;
        if (!is_plain(look->export, look->steps[t], look->step_bits, &tensor))
            return -1;
        for (int32_t k = 0; k < tensor.ndim; k++)
            if (tensor.shape[k] != 1)
                return -1;
        const char *data = tensor.data + tensor.byte_offset;
        if ((int64_t)data != look->step_pointers[t])
            return -1;
        const double step = look->step_bits == 64 ? *(const double *)data : *(const float *)data;
        if (t && step != first)
            return -1;
        first = step;
    }
    return first;
}

/* Look at every tensor of a step: whether parameters, state and step counts lie where they lay and
 * gradients lie alike, on memory that nothing writes to. Takes up the addresses of the gradients.
 * Returns the step count that all have in common, or -1 if anything is not as it should be. Must be
 * called with Python's lock held, because the table's function takes Python's tensors. */
double optimlab_look(const Look *look)
{
    for (long r = 0; r < look->inputs; r++) {
        const int64_t *layout = look->layouts;
        int64_t *pointers = look->pointers + r * look->stride;
        for (long t = 0; t < look->count; t++, layout += 1 + 2 * layout[0]) {
            void *object = r == 1 ? look->gradients[t] : look->objects[r * look->count + t];
            Exported tensor;
            if (!is_plain(look->export, object, look->bits, &tensor) ||
                !is_laid_out(&tensor, layout))
                return -1;
            const int64_t address = (int64_t)(tensor.data + tensor.byte_offset);
            if (!tensor.data && size_of(layout))
                return -1; /* zeros that are nowhere, or memory that was taken away */
            if (address == pointers[t])
                continue;
            if (r != 1 || !is_apart(look, address, address + size_of(layout) * (look->bits / 8)))
                return -1;
            pointers[t] = address;
        }
    }
    return common_step(look);
}
