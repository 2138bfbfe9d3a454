/* CUDA graphs of a device's queue. */
#include "tensor/cuda/runtime.cuh"

extern "C" {
#include "base/alloc.h"
}

struct ml_device_graph {
    cudaGraphExec_t exec;
    size_t n_node;
};

extern "C" ml_status ml_device_capture_begin(ml_device *device, ml_error *err)
{
    cudaError_t error = cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal);
    if (error == cudaSuccess) return ML_OK;
    return ml_fail(err, ML_EIO, "cuda:%d: work could not be captured: %s", device->index, cudaGetErrorString(error));
}

extern "C" ml_status ml_device_capture_end(ml_device *device, ml_device_graph **out, ml_error *err)
{
    *out = NULL;
    cudaGraph_t graph = NULL;
    ml_device_graph *g = (ml_device_graph *)ml_calloc(1, sizeof *g);
    cudaError_t error = cudaStreamEndCapture(device->stream, &graph);
    if (!g) {
        if (graph) (void)cudaGraphDestroy(graph);
        return ml_fail_memory(err, sizeof *g, "a device graph");
    }
    if (error == cudaSuccess) error = cudaGraphGetNodes(graph, NULL, &g->n_node);
    if (error == cudaSuccess) error = cudaGraphInstantiate(&g->exec, graph, 0);
    if (graph) (void)cudaGraphDestroy(graph);
    if (error == cudaSuccess) {
        *out = g;
        return ML_OK;
    }
    ml_free(g);
    return ml_fail(err, ML_EIO, "cuda:%d: captured work cannot be launched: %s", device->index,
                   cudaGetErrorString(error));
}

extern "C" void ml_device_queue_graph(ml_device *device, ml_device_graph *graph)
{
    ml_device_note(device, cudaGraphLaunch(graph->exec, device->stream), "launching a graph");
}

extern "C" int64_t ml_device_graph_count(const ml_device_graph *graph)
{
    return (int64_t)graph->n_node;
}

extern "C" void ml_device_graph_free(ml_device_graph *graph)
{
    if (!graph) return;
    (void)cudaGraphExecDestroy(graph->exec);
    ml_free(graph);
}
