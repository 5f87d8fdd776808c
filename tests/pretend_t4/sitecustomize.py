"""In every Python process of a machine with made-up cards: torch is patched as soon as it has been imported.

It does nothing without `PRETEND_GPUS`. The next sitecustomize on the path is run after it, so that a test can add
faults of its own; what it imports is patched already."""
import ast, functools, importlib.util, os, sys
from pathlib import Path

class AfterImport:
    "Calls functions with a module right after it has been imported."
    def __init__(self, calls): self.calls, self.looking = calls, set()

    def find_spec(self, name, path=None, target=None):
        if name not in self.calls or name in self.looking: return None
        self.looking.add(name)
        try: spec = importlib.util.find_spec(name)
        finally: self.looking.discard(name)
        if not spec: return None
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            for call in self.calls.pop(name, ()): call(module)
        spec.loader.exec_module = exec_module
        return spec

def patch(torch):
    import pretend_torch
    pretend_torch.install()

def watch_loads(module):
    import pretend_torch
    pretend_torch.watch_loads(module)

def watch(fault, module):
    import pretend_torch
    pretend_torch.watch(module, fault)

def put(name, value, module): setattr(module, name, ast.literal_eval(value))

def pretend():
    import pretend_board, pretend_nvml
    sys.modules['pynvml'], cards = pretend_nvml, pretend_board.settings()
    calls = {'torch': [patch], 'transformers.modeling_utils': [watch_loads]}
    def after(place, call, *args): calls.setdefault(place.partition(':')[0], []).append(functools.partial(call, *args))
    for fault in cards['faults']:
        if 'within' in fault: after(fault['within'], watch, fault)
    for place, value in cards['put'].items(): after(place, put, place.partition(':')[2], value)
    sys.meta_path.insert(0, AfterImport(calls))

def run_next():
    "The sitecustomize that this one hides."
    here = Path(__file__).resolve().parent
    files = [Path(p)/'sitecustomize.py' for p in sys.path if p and Path(p).resolve() != here]
    found = next((f for f in files if f.is_file()), None)
    if not found: return
    spec = importlib.util.spec_from_file_location('next_sitecustomize', found)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

if 'PRETEND_GPUS' in os.environ: pretend()
run_next()
