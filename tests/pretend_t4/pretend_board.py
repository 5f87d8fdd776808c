"""What the made-up cards are, and what every process holds on them. It needs no torch: nvidia-smi and NVML read it too.

`PRETEND_GPUS` is 'T4x2', 'T4', 'P100', 'L4x2' and so on, or a JSON object with keys of `KIND` (sizes in MiB).
`PRETEND_BOARD` is a folder with one file a process, `{pid}.json`: what it holds of each card, and its log.
The file of a dead process stays as its log, and counts no more."""
import json, os
from pathlib import Path

MIB = 2**20
KIND = dict(
    name='Tesla T4', count=1,
    capability='7.5', processors=40,
    total=15095,        # what torch calls total_memory
    board=15360,        # what NVML calls total
    taken=182,          # held by the driver and by whoever else is there
    context=300,        # each process and card, from the first use on
    fragmentation=1.0,  # reserved over allocated
    half='float32',     # what products of float16 are computed in; float16 is far too slow on a CPU
    arch='7.5 8.0 8.6 9.0 10.0 12.0',  # of torch's build; a card below the least of them has no kernels
    faults=[],          # see pretend_torch
    put={})             # 'module:NAME' and the repr of the value it gets once the module is imported
KINDS = dict(T4={}, P100=dict(name='Tesla P100-PCIE-16GB', capability='6.0', processors=56, total=16269, board=16384),
             L4=dict(name='NVIDIA L4', capability='8.9', processors=58, total=22478, board=23034))

def kind_of(spec):
    "A kind's settings, from 'T4x2' or JSON."
    if not spec.startswith('{'):
        kind, _, count = spec.partition('x')
        return {**KIND, **KINDS[kind], 'count': int(count or 1)}
    asked = json.loads(spec)
    odd = asked.keys() - KIND.keys()
    if odd: raise ValueError(f'PRETEND_GPUS has no {", ".join(sorted(odd))}. Known: {", ".join(KIND)}.')
    return {**KIND, **asked}

def settings(): return kind_of(os.environ['PRETEND_GPUS'])

def living(pid):
    "Whether a process is there, and no zombie."
    try: return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError: return False

def read_board(folder):
    "What each process wrote, by its number."
    files = {int(f.stem): f for f in Path(folder).glob('*.json')}
    return {pid: json.loads(f.read_text()) for pid,f in files.items()}

def write_board(folder, pid, facts):
    "Written beside and renamed, so that a reader never sees half of it."
    part = Path(folder)/f'{pid}.part'
    part.write_text(json.dumps(facts))
    part.replace(Path(folder)/f'{pid}.json')

def held(card, but=None):
    "Bytes that living processes hold of a card, one of them left out."
    folder = os.environ.get('PRETEND_BOARD')
    if not folder: return 0
    there = {pid: p for pid,p in read_board(folder).items() if pid != but and living(pid)}
    return sum(p['held'][card] for p in there.values() if card < len(p['held']))
