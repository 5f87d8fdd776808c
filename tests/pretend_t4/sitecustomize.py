"""In every Python process of a machine with made-up cards: torch is patched as soon as it has been imported.

It does nothing without `PRETEND_GPUS`. Another sitecustomize further down the path is run after it, torch's patch included,
so that a test can add faults of its own."""
import importlib.util, os, sys
from pathlib import Path

class AfterImport:
    "Calls functions with a module right after it has been imported."
    def __init__(self, calls): self.calls = calls

    def find_spec(self, name, path=None, target=None):
        if name not in self.calls: return None
        calls = self.calls.pop(name)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            for call in calls: call(module)
        spec.loader.exec_module = exec_module
        return spec

def patch(torch):
    import pretend_torch
    pretend_torch.install()

def pretend():
    import pretend_board, pretend_nvml
    sys.modules['pynvml'] = pretend_nvml
    calls = {'torch': [patch], 'transformers.modeling_utils': [lambda m: sys.modules['pretend_torch'].watch_loads(m)]}
    for fault in pretend_board.settings()['faults']:
        module = fault.get('within', '').partition(':')[0]
        if module: calls.setdefault(module, []).append(lambda m, f=fault: sys.modules['pretend_torch'].watch(m, f))
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
