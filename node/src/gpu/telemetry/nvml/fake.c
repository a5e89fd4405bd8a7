/* Stands in for NVIDIA's library in tests: one card, whose figures never change. With LOST it has fallen off the bus. */

#include <string.h>

#define SUCCESS 0
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define GPU_LOST 15

#ifdef LOST
#define ANSWER(what) return GPU_LOST
#else
#define ANSWER(what) do { what; return SUCCESS; } while (0)
#endif

typedef void *device;
typedef unsigned long long u64;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } process;
typedef struct { unsigned pid; u64 time; unsigned sm, memory, encoder, decoder; } sample;

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlDeviceGetHandleByPciBusId_v2(const char *address, device *handle) {
    if (strcmp(address, "0000:01:00.0") != 0) return NOT_FOUND;
    *handle = handle;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(device handle, int sensor, unsigned *value) { ANSWER(*value = 67); }
int nvmlDeviceGetTemperatureThreshold(device handle, int kind, unsigned *value) {
    ANSWER(*value = kind == 0 ? 97 : 92);
}
int nvmlDeviceGetPowerUsage(device handle, unsigned *value) { ANSWER(*value = 312500); }
int nvmlDeviceGetEnforcedPowerLimit(device handle, unsigned *value) { ANSWER(*value = 450000); }
int nvmlDeviceGetUtilizationRates(device handle, utilization *value) {
    ANSWER(*value = ((utilization){98, 60}));
}
int nvmlDeviceGetMemoryInfo_v2(device handle, memory *value) {
    ANSWER(value->total = 24ULL << 30; value->used = 20ULL << 30);
}
int nvmlDeviceGetClockInfo(device handle, int clock, unsigned *value) { ANSWER(*value = clock == 2 ? 10501 : 2520); }
int nvmlDeviceGetFanSpeed_v2(device handle, unsigned fan, unsigned *value) { ANSWER(*value = 54); }
int nvmlDeviceGetCurrentClocksThrottleReasons(device handle, u64 *value) { ANSWER(*value = 4); }

static int list(const process *processes, unsigned count, unsigned *size, process *out) {
#ifdef LOST
    return GPU_LOST;
#endif
    if (*size < count) {
        *size = count;
        return INSUFFICIENT_SIZE;
    }
    memcpy(out, processes, count * sizeof(process));
    *size = count;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device handle, unsigned *size, process *out) {
    const process computing[] = {{4242, 18ULL << 30, -1, -1}};
    return list(computing, 1, size, out);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(device handle, unsigned *size, process *out) {
    const process drawing[] = {{1000, 1ULL << 30, -1, -1}};
    return list(drawing, 1, size, out);
}

int nvmlDeviceGetProcessUtilization(device handle, sample *out, unsigned *size, u64 seen) {
    const sample samples[] = {{4242, 1000, 90, 0, 0, 0}, {4242, 2000, 80, 0, 0, 0}, {1000, 2000, 13, 0, 0, 0}};
#ifdef LOST
    return GPU_LOST;
#endif
    if (seen >= 2000) return NOT_FOUND;
    if (*size < 3) {
        *size = 3;
        return INSUFFICIENT_SIZE;
    }
    memcpy(out, samples, sizeof samples);
    *size = 3;
    return SUCCESS;
}
