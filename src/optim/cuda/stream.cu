/* What lies in pinned memory of this machine comes to the device and goes back on streams of its own, in turn through
 * three slots.  A slot is filled again when what was in it has gone back:
 *
 *     up     waits for gone[slot],     copies, marks arrived[slot]
 *     main   waits for arrived[slot],  computes, marks computed[slot]
 *     down   waits for computed[slot], copies, marks gone[slot]
 */
#include "optim/cuda/update.cuh"

bool ml_update_moves(const ml_device_update *u)
{
    if (u->storage.here) return true;
    for (int64_t i = 0; i < u->n_param; i++)
        if (u->param[i].rest && u->param[i].rest_is_here) return true;
    return false;
}

ml_status ml_update_make_stream(ml_device_update *u, ml_error *err)
{
    if (u->slot_bytes == 0) return ML_OK;
    cudaError_t error = cudaStreamCreateWithFlags(&u->up, cudaStreamNonBlocking);
    if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&u->down, cudaStreamNonBlocking);
    for (int i = 0; i < ML_UPDATE_SLOTS && error == cudaSuccess; i++) {
        error = cudaEventCreateWithFlags(&u->arrived[i], cudaEventDisableTiming);
        if (error == cudaSuccess) error = cudaEventCreateWithFlags(&u->computed[i], cudaEventDisableTiming);
        if (error == cudaSuccess) error = cudaEventCreateWithFlags(&u->gone[i], cudaEventDisableTiming);
    }
    if (error == cudaSuccess) return ML_OK;
    return ml_fail(err, ML_EIO, "the optimizer's streams: CUDA says \"%s\"", cudaGetErrorString(error));
}

void ml_update_free_stream(ml_device_update *u)
{
    if (u->up) (void)cudaStreamDestroy(u->up);
    if (u->down) (void)cudaStreamDestroy(u->down);
    for (int i = 0; i < ML_UPDATE_SLOTS; i++) {
        if (u->arrived[i]) (void)cudaEventDestroy(u->arrived[i]);
        if (u->computed[i]) (void)cudaEventDestroy(u->computed[i]);
        if (u->gone[i]) (void)cudaEventDestroy(u->gone[i]);
    }
}

static void note(ml_device_update *u, cudaError_t error)
{
    ml_device_note(u->device, error, "moving the optimizer's state");
}

/* An event that was never recorded holds nobody up, so the first turn through the slots needs no case of its own. */
void ml_update_ask(ml_device_update *u, int64_t until)
{
    if (!u->slot) return;
    for (; u->n_asked <= until && u->n_asked < u->n_batch; u->n_asked++) {
        int s = (int)(u->n_asked % ML_UPDATE_SLOTS);
        const ml_update_batch *b = &u->batch[u->n_asked];
        note(u, cudaStreamWaitEvent(u->up, u->gone[s], 0));
        for (int64_t i = 0; i < b->n_copy; i++) {
            const ml_update_copy *c = &u->copy[b->copy + i];
            note(u, cudaMemcpyAsync(u->slot + (size_t)s * u->slot_bytes + c->at, c->here, c->n_bytes,
                                    cudaMemcpyHostToDevice, u->up));
        }
        note(u, cudaEventRecord(u->arrived[s], u->up));
    }
}

void ml_update_await(ml_device_update *u, int64_t b)
{
    if (u->slot) note(u, cudaStreamWaitEvent(u->device->stream, u->arrived[b % ML_UPDATE_SLOTS], 0));
}

void ml_update_return(ml_device_update *u, int64_t at)
{
    if (!u->slot) return;
    int s = (int)(at % ML_UPDATE_SLOTS);
    const ml_update_batch *b = &u->batch[at];
    note(u, cudaEventRecord(u->computed[s], u->device->stream));
    note(u, cudaStreamWaitEvent(u->down, u->computed[s], 0));
    for (int64_t i = 0; i < b->n_copy; i++) {
        const ml_update_copy *c = &u->copy[b->copy + i];
        note(u, cudaMemcpyAsync(c->here, u->slot + (size_t)s * u->slot_bytes + c->at, c->n_bytes,
                                cudaMemcpyDeviceToHost, u->down));
    }
    note(u, cudaEventRecord(u->gone[s], u->down));
}

/* The device's own stream waits for the last copies back, so that whoever waits for the device finds everything in its
 * place.  The next step's batches use the slots from the first on, whichever the last one had: entries name their slot.
 */
void ml_update_end(ml_device_update *u)
{
    u->n_asked = 0;
    if (!u->slot) return;
    for (int s = 0; s < ML_UPDATE_SLOTS; s++) note(u, cudaStreamWaitEvent(u->device->stream, u->gone[s], 0));
}
