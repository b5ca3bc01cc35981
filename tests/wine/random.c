/* bcryptprimitives.dll, which Wine 8 has not got: the random numbers come from another DLL. */

unsigned char __stdcall SystemFunction036(void *, unsigned long);

int __stdcall DllMainCRTStartup(void *module, unsigned reason, void *reserved) { return 1; }

__declspec(dllexport) int __stdcall ProcessPrng(unsigned char *data, unsigned long long size)
{
    return SystemFunction036(data, (unsigned long)size);
}
