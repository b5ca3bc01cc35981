/* python.exe, which no wheel has: it hands its arguments to the DLL.

   Wine 8 has no Ctrl-Break and closes no console. So two threads wait for events with the id of this process in their
   names, which shims.py sets, and do what Windows does then. At Ctrl-Break they call the handler of SIGBREAK, or end the
   process. At the end of the console they call all handlers of console events, and end the process. */

#include <windows.h>

#define SIGBREAK 21

typedef void (*handler)(int);

static DWORD WINAPI wait_for_break(void *unused)
{
    HMODULE crt = GetModuleHandleW(L"ucrtbase.dll");
    handler (*set_handler)(int, handler) = (void *)GetProcAddress(crt, "signal");
    int (*call_handler)(int) = (void *)GetProcAddress(crt, "raise");
    wchar_t name[40];
    wsprintfW(name, L"ctrl-break-%lu", GetCurrentProcessId());
    HANDLE event = CreateEventW(NULL, FALSE, FALSE, name);

    while (WaitForSingleObject(event, INFINITE) == WAIT_OBJECT_0) {
        handler current = set_handler(SIGBREAK, NULL);
        if (current == NULL)
            ExitProcess(0xC000013A); /* STATUS_CONTROL_C_EXIT */
        set_handler(SIGBREAK, current);
        if (current != (handler)1) /* SIG_IGN */
            call_handler(SIGBREAK);
    }
    return 0;
}

static DWORD WINAPI wait_for_close(void *unused)
{
    DWORD (WINAPI *call_handlers)(void *) =
        (void *)GetProcAddress(GetModuleHandleW(L"kernelbase.dll"), "CtrlRoutine");
    wchar_t name[40];
    wsprintfW(name, L"close-%lu", GetCurrentProcessId());
    HANDLE event = CreateEventW(NULL, FALSE, FALSE, name);

    WaitForSingleObject(event, INFINITE);
    SetConsoleCtrlHandler(NULL, FALSE); /* in a new group, where Ctrl-C is ignored, Wine would ignore this as well */
    call_handlers((void *)CTRL_CLOSE_EVENT);
    TerminateProcess(GetCurrentProcess(), 0xC000013A);
    return 0;
}

int wmain(int count, wchar_t **words)
{
    HMODULE python = LoadLibraryW(PYTHON_DLL);
    int (*run)(int, wchar_t **) = python ? (void *)GetProcAddress(python, "Py_Main") : NULL;
    if (run == NULL)
        return 103;
    CreateThread(NULL, 0, wait_for_break, NULL, 0, NULL);
    CreateThread(NULL, 0, wait_for_close, NULL, 0, NULL);
    return run(count, words);
}
