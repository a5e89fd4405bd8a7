/* Stands in for NVIDIA's library in tests: as many cards as CARDS says, each of which gives the report in the file REPORT
 * (hexadecimal digits) and the certificates in the file CHAIN (PEM). With PLAIN they are not in confidential-computing
 * mode, with LOST they have fallen off the bus, with OLD the library is from before there was such a mode. */

#include <stdio.h>
#include <string.h>

#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define GPU_LOST 15

typedef void *device;
typedef struct { unsigned chain_size, attestation_chain_size; unsigned char chain[4096], attestation_chain[5120]; } certificate;
typedef struct {
    unsigned has_cec, size, cec_size;
    unsigned char nonce[32], report[8192], cec[4096];
} report;

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = CARDS;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *handle) {
    if (index >= CARDS) return INVALID_ARGUMENT;
    *handle = handle;
    return SUCCESS;
}

#ifndef OLD
int nvmlDeviceGetConfComputeGpuAttestationReport(device handle, report *value) {
#if defined(PLAIN)
    return NOT_SUPPORTED;
#elif defined(LOST)
    return GPU_LOST;
#else
    FILE *file = fopen(REPORT, "r");
    unsigned byte;
    for (value->size = 0; fscanf(file, "%2x", &byte) == 1; value->size++) value->report[value->size] = byte;
    fclose(file);
    /* As the GPU does: the nonce asked with is the request's. */
    memcpy(value->report + 4, value->nonce, 32);
    return SUCCESS;
#endif
}

int nvmlDeviceGetConfComputeGpuCertificate(device handle, certificate *value) {
    FILE *file = fopen(CHAIN, "r");
    value->attestation_chain_size = fread(value->attestation_chain, 1, sizeof value->attestation_chain, file);
    fclose(file);
    return SUCCESS;
}
#endif
