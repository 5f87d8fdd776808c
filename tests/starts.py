"""The commands in processes of their own, forked from one that has imported what they import.

A command needs seconds to import torch and sentence-transformers, and the tests start some two hundred. Here that is done
once. What a command sees is what it sees when it is started anew, as long as the environment is the one of the first start;
for any other it is started anew.
"""
import atexit, importlib, multiprocessing, os, subprocess, sys, tempfile, traceback
from pathlib import Path

IMPORTED = 'sentence_transformers.sentence_transformer.modules', 'coderank_qdrant.all', 'coderank_qdrant.pipeline'
CHANGES = 'PYTEST_CURRENT_TEST'  # with every test, and nobody reads it
server = None  # (multiprocessing's context, the environment it was made in)

def environment(): return {key: value for key,value in os.environ.items() if key != CHANGES}

def forking():
    "The context that forks, or None where the environment is not the one it has."
    global server
    if server is None:
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(list(IMPORTED))
        server = context, environment()
    context, its_own = server
    return context if its_own == environment() else None

def work(module, command, args, cwd, out, err):
    "What the forked process does."
    for path,stream in (out, 1), (err, 2):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(cwd)
    sys.argv = ['-c', *args]
    code = 1
    try:
        code = getattr(importlib.import_module(f'coderank_qdrant.{module}'), command)()
    except SystemExit as e: code = e.code
    except BaseException: traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    if isinstance(code, str): print(code, file=sys.stderr, flush=True)
    os._exit(int(bool(code)) if isinstance(code, str) else code or 0)

def forked(context, module, command, args, cwd, timeout):
    "A finished process, as `subprocess.run` gives it."
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder)/'out', Path(folder)/'err'
        for path in out, err: path.touch()
        process = context.Process(target=work, args=(module, command, args, cwd, out, err))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(args, timeout, out.read_text(), err.read_text())
        return subprocess.CompletedProcess(args, process.exitcode, out.read_text(), err.read_text())
