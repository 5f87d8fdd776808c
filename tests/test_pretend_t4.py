"The made-up cards themselves."
import subprocess, sys
import pytest
from conftest import alive
from pretend_t4 import ask, hold, read_log

MIB = 2**20

def test_what_a_card_says_of_itself(cards):
    got = ask(cards(), '''
import pynvml, subprocess
query = ['nvidia-smi', '--query-gpu=memory.free,memory.total', '--format=csv,noheader,nounits']
before = subprocess.run(query, capture_output=True, text=True).stdout.split()
p, free = cuda.get_device_properties(1), cuda.mem_get_info(0)[0]
m = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0))
print(json.dumps([cuda.is_available(), cuda.device_count(), p.name, p.total_memory, cuda.get_device_capability(),
                  cuda.is_bf16_supported(), cuda.get_arch_list()[0], torch.device(1).type, before, free, m.free]))''')
    left = 15095 - 182
    assert got[:8] == [True, 2, 'Tesla T4', 15095 * MIB, [7, 5], True, 'sm_75', 'cuda']
    assert got[8:] == [[f'{left},', '15360'] * 2, (left - 300) * MIB, (left - 300) * MIB]

def test_without_the_variable_nothing_changes(cards):
    env = {k: v for k,v in cards().items() if k != 'PRETEND_GPUS'}
    assert not ask(env, 'import sys; print(json.dumps("pretend_torch" in sys.modules))')

@pytest.mark.parametrize('option', ['-B', '-P'])
def test_memory_is_counted_and_freed(cards, option):
    got = ask(cards(), '''
now = lambda: cuda.memory_allocated('cuda:1')
seen = [now()]
a = torch.zeros(1000, 1001, device='cuda:1')  # 4,004,000 bytes
seen += [now(), a.device.type]
view = a[10:].T
seen.append(now())
with torch.inference_mode(): b = (view @ a[10:]).relu()
seen.append(now() - seen[1])
del a
seen.append(now() > 4_004_000)
del view, b
layer = torch.nn.Linear(64, 8).to('cuda:1', torch.float16)
meta = torch.empty(10**12, device='meta')
seen += [now(), cuda.memory_reserved(1) // 2**20, cuda.max_memory_allocated(1) > 12_000_000]
cuda.empty_cache()
cuda.reset_peak_memory_stats(1)
seen += [cuda.memory_reserved(1) // 2**20, cuda.max_memory_allocated(1), cuda.memory_allocated(0)]
print(json.dumps(seen))''', option)
    square = -(-1001 * 1001 * 4 // 512) * 512
    assert got == [0, 4_004_352, 'cpu', 4_004_352, square, True, 1536, 12, True, 2, 1536, 0]

def test_a_full_card_refuses(cards):
    got = ask(cards(total=2000, fragmentation=1.25), '''
seen = []
def trying(do):
    try: do()
    except RuntimeError as e: return seen.append([type(e).__name__, str(e).splitlines()[0]])
    seen.append('fits')
whole = lambda mib, card=0: torch.empty(mib * 2**20, dtype=torch.uint8, device=f'cuda:{card}')
trying(lambda: whole(1200))
trying(lambda: whole(1300))
kept = whole(1000)
trying(lambda: whole(500))
trying(lambda: whole(500, 1))
trying(lambda: whole(1, 2))
trying(lambda: torch.ones(400 * 2**20, dtype=torch.uint8).to('cuda'))
print(json.dumps(seen + [cuda.memory_stats(0)['num_ooms']]))''')
    fits, full = 'fits', 'OutOfMemoryError'
    assert [g if g == fits else g[0] for g in got[:-1]] == [fits, full, full, fits, 'AcceleratorError', full]
    assert got[1][1].startswith('CUDA out of memory. Tried to allocate 1.27 GiB. GPU 0 has a total capacity of 1.95 GiB')
    assert got[-1] == 3
    assert got[4][1] == 'CUDA error: invalid device ordinal'

def test_processes_see_each_other_until_they_die(cards):
    env = cards()
    code = 'import torch; held = torch.empty(2**32, dtype=torch.uint8, device="cuda:1"); print("ready", flush=True); input()'
    free = 'print(json.dumps([cuda.mem_get_info(i)[0] // 2**20 for i in range(2)]))'
    alone = [15095 - 182 - 300] * 2
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, '-c', code], env=env, **pipes) as p:
        assert p.stdout.readline() == 'ready\n'
        assert ask(env, free) == [alone[0], alone[1] - 4096 - 300]
        p.kill()
    assert not alive(p.pid) and ask(env, free) == alone
    assert [q['cards'][1]['reserved'] for q in read_log(env) if q['pid'] == p.pid] == [4 * 2**30]
    hold(env, 0, 10_000)
    assert ask(env, free) == [alone[0] - 10_000, alone[1]]

def test_copies_streams_and_events(cards):
    env = cards()
    got = ask(env, '''
import time
host = torch.arange(5.).pin_memory()
room = torch.empty(5, pin_memory=True)
card = host.to('cuda:1', non_blocking=True)
start, end = (cuda.Event(enable_timing=True) for _ in range(2))
with cuda.device(1), cuda.stream(cuda.Stream()) as stream:
    start.record()
    room.copy_(card * 2, non_blocking=True)
    time.sleep(.02)
    end.record()
    here = cuda.current_device()
end.synchronize()
try: card.numpy()
except TypeError as e: why = str(e)
print(json.dumps([[t.is_pinned() for t in (host, room, host.clone(), card)], room.numpy().tolist(), end.query(),
                  start.elapsed_time(end) >= 20, here, cuda.current_device(), card.cpu().numpy().tolist(), why[:22]]))''')
    assert got[0] == [True, True, False, False]
    assert got[1:] == [[0, 2, 4, 6, 8], True, True, 1, 0, [0, 1, 2, 3, 4], "can't convert cuda:1 d"]
    counts = read_log(env)[0]['counts']
    assert (counts['to_card'], counts['to_card_pinned'], counts['to_host'], counts['synchronised']) == (1, 1, 2, 2)

def test_every_thread_has_the_cards(cards):
    got = ask(cards(), '''
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool: made = list(pool.map(lambda i: torch.ones(100, device=f'cuda:{i % 2}'), range(8)))
print(json.dumps([cuda.memory_allocated(i) for i in range(2)]))''')
    assert got == [2048, 2048]

def test_torch_imported_in_another_thread(cards):
    code = '''
import json, threading, time
t = threading.Thread(target=lambda: __import__('torch'))
t.start(); t.join(); time.sleep(.01)
import torch
held = torch.ones(100, device='cuda:1')
print(json.dumps(torch.cuda.memory_allocated(1)))'''
    p = subprocess.run([sys.executable, '-c', code], env=cards(), capture_output=True, text=True, timeout=120)
    assert p.stdout == '512\n', p.stderr

def test_half_precision_rounds_once(cards):
    got = ask(cards(), '''
torch.manual_seed(0)
a, b = (torch.randn(64, 512, dtype=torch.float16) for _ in range(2))
c = a.cuda() @ b.cuda().T
exact = a.float() @ b.float().T
large = (a.cuda() * 300) @ (b.cuda() * 300).T
print(json.dumps([str(c.dtype), bool((c.cpu() == exact.half()).all()), bool(torch.isinf(large).any())]))''')
    assert got == ['torch.float16', True, True]

def test_attention_goes_where_a_T4_sends_it(cards):
    code = '''
from torch.nn.functional import scaled_dot_product_attention as attention
q, k = (torch.randn(1, heads, 512, 64, dtype=torch.float16, device='cuda:0') for heads in (8, 2))
def peak(*tensors, **kw):
    cuda.reset_peak_memory_stats()
    before = cuda.memory_allocated()
    with torch.inference_mode(): attention(*tensors, **kw)
    return cuda.max_memory_allocated() - before
square = 8 * 512 * 512 * 4  # a score for each pair, in 32 bits
wide = k.repeat_interleave(4, dim=1)
print(json.dumps([peak(q, k, k, enable_gqa=True) > square, peak(q, wide, wide) < square / 4]))'''
    assert ask(cards(), code) == [True, True]
    assert ask(cards('L4'), code) == [False, True]

def test_a_P100_has_no_kernels(cards):
    got = ask(cards('P100'), '''
a = torch.empty(4, device='cuda')
b = torch.ones(4).to('cuda')[1:].cpu().tolist()
try: a + 1
except RuntimeError as e: print(json.dumps([cuda.get_device_capability(), b, str(e).splitlines()[0]]))''')
    assert got == [[6, 0], [1, 1, 1], 'CUDA error: no kernel image is available for execution on the device']

def test_faults_where_they_are_asked_for(cards):
    faults = [dict(mib=8, nth=2, times=1, card=0), dict(within='colorsys:rgb_to_hls', call=2, do='error')]
    env = cards(faults=faults, put={'colorsys:ONE_SIXTH': (1, 2)})
    got = ask(env, '''
import colorsys
seen = []
def trying(do):
    try: seen.append(do() is None)
    except RuntimeError as e: seen.append(type(e).__name__)
for mib in 9, 1, 9, 9: trying(lambda: torch.empty(mib * 2**20, dtype=torch.uint8, device='cuda:0') is None)
class Red:
    def __add__(self, other): return torch.ones(1, device='cuda:1') and 1
    __radd__ = __sub__ = __rsub__ = __add__
    def __lt__(self, other): torch.ones(1, device='cuda:1'); return False
    __gt__ = __lt__
for _ in range(3): trying(lambda: colorsys.rgb_to_hls(Red(), Red(), Red()) and None)
print(json.dumps(seen + [colorsys.ONE_SIXTH]))''')
    assert got == [False, False, 'OutOfMemoryError', False, True, 'RuntimeError', True, [1, 2]]

def test_a_kernel_of_jupyter_has_the_cards(cards, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient
    for k,v in cards('T4').items(): monkeypatch.setenv(k, v)
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path))
    code = 'import torch; torch.ones(9, device="cuda"); torch.cuda.max_memory_allocated()'
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(nb, timeout=120, kernel_name='python3').execute()
    assert nb.cells[0].outputs[0]['data']['text/plain'] == '512'
