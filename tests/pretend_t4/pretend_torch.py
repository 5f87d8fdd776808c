"""Made-up CUDA cards for a torch that has none. `install()` is called in every process by sitecustomize.

How it is done. A function mode sends everything asked of 'cuda:N' to the CPU and notes the card. A dispatch mode gives
what an operation makes to the card of what it was made from, counts the storages that live, rounded up to 512 bytes as
CUDA's allocator does, and raises `torch.OutOfMemoryError` where a card would. Both are in force in every thread.
A tensor's own `device` stays 'cpu': what a library makes with `device=x.device` is the host's, and only what comes of it
and a card's tensor is counted. Attention is sent where a card of the capability sends it: with `enable_gqa` below 8.0 to
the math kernel, else to the efficient one. Products of float16 are computed in `half` and rounded once.

Faults. `faults` in `PRETEND_GPUS` is a list of objects; each happens at an allocation on a card:
  do      'oom' (default), 'kill' (SIGKILL) or 'error' (a RuntimeError)
  within  'module:function' or 'module:Class.method': only while it runs, in whatever thread
  call    the number of that function's call in this process, from 1; any by default
  card    the card's number; any by default
  mib     only allocations of at least so many MiB; 0 by default
  nth     which of all these in this process it begins with, from 1 (the default)
  times   how often in this process; without end by default
  once    true: once in all processes together (needs `PRETEND_BOARD`)
So {'within': 'coderank_qdrant.calibration:sweep'} is a card that runs out of memory in every sweep, and
{'within': 'coderank_qdrant.workers:begin', 'call': 3, 'times': 1} one that does so at a process' third batch."""
import atexit, ctypes, functools, math, os, signal, sys, threading, time, weakref
from types import SimpleNamespace
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from pretend_board import MIB, held, settings, write_board

CARDS = settings()
CAPABILITY = tuple(map(int, CARDS['capability'].split('.')))
ARCH = [tuple(map(int, a.split('.'))) for a in CARDS['arch'].split()]
KERNELS = CAPABILITY >= min(ARCH)
HALF = getattr(torch, CARDS['half'])
BLOCK, SEGMENT = 512, 2 * MIB
here, lock = threading.local(), threading.RLock()
counts, loads, marks = {}, [], []

def count(what, n=1): counts[what] = counts.get(what, 0) + n
def round_up(n, to): return -(-n // to) * to
def size(n): return f'{n / 2**30:.2f} GiB' if n >= 2**30 else f'{n / MIB:.2f} MiB'

class Card:
    "What this process has on a card, in bytes."
    def __init__(self, index):
        self.index, self.context, self.fraction = index, False, 1.
        self.now = self.peak = self.top = 0  # allocated: at the moment, at the most since a reset, at the most ever
        self.reserved = self.most = 0        # taken from the driver: at the moment, at the most since a reset
        self.ooms = self.operations = 0

    @property
    def held(self): return self.reserved + CARDS['context'] * MIB * self.context

    def use(self):
        if not self.context:
            self.context = True
            publish()

    def free(self):
        "Bytes the driver could still give."
        return max((CARDS['total'] - CARDS['taken']) * MIB - self.held - held(self.index, os.getpid()), 0)

    def room(self):
        "Bytes this process could still reserve."
        return min(self.free(), int(CARDS['total'] * MIB * self.fraction) - self.reserved)

    def need(self, n): return round_up(math.ceil(n * CARDS['fragmentation']), SEGMENT)

    def take(self, n):
        self.use()
        fail(self.index, n)
        more = self.need(self.now + n) - self.reserved
        if more > 0 and more > self.room(): self.refuse(n)
        self.now += n
        self.peak, self.top = max(self.peak, self.now), max(self.top, self.now)
        if more > 0:
            self.reserved += more
            self.most = max(self.most, self.reserved)
            publish()

    def refuse(self, n):
        self.ooms += 1
        publish()
        raise torch.OutOfMemoryError(
            f'CUDA out of memory. Tried to allocate {size(n)}. GPU {self.index} has a total capacity of '
            f'{size(CARDS["total"] * MIB)} of which {size(self.free())} is free. Of the allocated memory {size(self.now)} '
            f'is allocated by PyTorch, and {size(self.reserved - self.now)} is reserved by PyTorch but unallocated.')

    def give_back(self):
        "What is reserved and not used."
        self.reserved = self.need(self.now)

    def facts(self):
        return dict(used=self.context, peak=self.top, reserved=self.reserved, allocated=self.now, ooms=self.ooms,
                    operations=self.operations)

cards = [Card(i) for i in range(CARDS['count'])]

def publish():
    "Tell the other processes, and the log."
    folder = os.environ.get('PRETEND_BOARD')
    if not folder: return
    with lock:
        here.told = time.monotonic()
        mine = dict(pid=os.getpid(), parent=os.getppid(), argv=sys.argv[:3], counts=counts, loads=loads)
        write_board(folder, os.getpid(), {**mine, 'held': [c.held for c in cards], 'cards': [c.facts() for c in cards]})

# Faults

def new_mark(fault): return dict(fault=fault, calls=0, inside=set(), hits=0, done=0)

def watch(module, fault):
    "Know when a fault's function runs, and count its calls."
    *path, name = fault['within'].partition(':')[2].split('.')
    holder = functools.reduce(getattr, path, module)
    real, mark = getattr(holder, name), new_mark(fault)
    marks.append(mark)
    @functools.wraps(real)
    def watched(*args, **kw):
        mark['calls'] += 1
        call = mark['calls']
        mark['inside'].add(call)
        try: return real(*args, **kw)
        finally: mark['inside'].discard(call)
    setattr(holder, name, watched)

def first_anywhere(i):
    "Whether no other process was first."
    try: os.close(os.open(f'{os.environ["PRETEND_BOARD"]}/fault{i}.once', os.O_CREAT | os.O_EXCL))
    except FileExistsError: return False
    return True

def applies(mark, card, n):
    fault = mark['fault']
    if fault.get('within') and not mark['inside']: return False
    if 'call' in fault and fault['call'] not in mark['inside']: return False
    if fault.get('card', card) != card or n < fault.get('mib', 0) * MIB: return False
    mark['hits'] += 1
    if mark['hits'] < fault.get('nth', 1) or mark['done'] >= fault.get('times', math.inf): return False
    return not fault.get('once') or first_anywhere(CARDS['faults'].index(fault))

def fail(card, n):
    "Make what was asked for go wrong."
    for mark in marks:
        if not applies(mark, card, n): continue
        mark['done'] += 1
        count('faults')
        publish()
        do = mark['fault'].get('do', 'oom')
        if do == 'kill': os.kill(os.getpid(), signal.SIGKILL)
        if do == 'error': raise RuntimeError('CUDA error: unspecified launch failure (made up)')
        cards[card].refuse(n)

def watch_loads(module):
    "Count the models that are loaded."
    real = module.PreTrainedModel.from_pretrained.__func__
    @functools.wraps(real)
    def from_pretrained(cls, path, *args, **kw):
        loads.append(str(path))
        publish()
        return real(cls, path, *args, **kw)
    module.PreTrainedModel.from_pretrained = classmethod(from_pretrained)

# Whose storage is whose

owners, pinned = {}, {}  # storage: (weak reference, card, bytes); storage: weak reference

def key_of(tensor): return tensor.untyped_storage()._cdata

def strided(x): return isinstance(x, torch.Tensor) and x.layout is torch.strided and x.device.type == 'cpu'

def owner(x):
    "The card of a tensor, or None."
    found = owners.get(key_of(x)) if owners and strided(x) else None
    return found and found[1]

def owner_in(*xs): return next((c for c in map(owner, tree_leaves(xs)) if c is not None), None)

def gone(key):
    with lock:
        _, card, n = owners.pop(key)
        cards[card].now -= n

def give(tensor, card):
    "A tensor's storage belongs to a card from here on."
    if not strided(tensor): return
    storage = tensor.untyped_storage()
    key, n = storage._cdata, round_up(storage.nbytes(), BLOCK)
    with lock:
        if key in owners: return
        cards[card].take(n)
        owners[key] = weakref.ref(storage, lambda _: gone(key)), card, n

def is_pinned(x): return strided(x) and key_of(x) in pinned

def pin(tensor):
    storage = tensor.untyped_storage()
    key = storage._cdata
    pinned[key] = weakref.ref(storage, lambda _: pinned.pop(key))
    count('pinned')
    return tensor

def card_of(device):
    "A card's number; None for what is no card; raises where there is none of that number."
    if device is None: return getattr(here, 'card', 0)
    if isinstance(device, str): device = torch.device(device)
    if isinstance(device, torch.device):
        if device.type != 'cuda': return None
        device = getattr(here, 'card', 0) if device.index is None else device.index
    if not 0 <= device < len(cards): raise launch_error('invalid device ordinal')
    return device

def launch_error(what):
    kind = getattr(torch, 'AcceleratorError', RuntimeError)
    return kind(f'CUDA error: {what}\nCUDA kernel errors might be asynchronously reported at some other API call, so the '
                'stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1')

# The two modes

NEW, HOST = 'as its sources', 'host'  # where an operation's results go; else a card's number

class made_on:
    "What is made inside belongs to a card, or to the host."
    def __init__(self, where): self.where = where
    def __enter__(self): self.before, here.where = getattr(here, 'where', NEW), self.where
    def __exit__(self, *_): here.where = self.before

PRODUCTS = 'mm', 'addmm', 'bmm', 'baddbmm', '_scaled_dot_product_flash_attention_for_cpu'
NO_KERNEL = {'empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided', 'copy_', '_to_copy', 'clone',
             'detach', 'alias', 'lift_fresh', '_local_scalar_dense', 'set_', 'resize_'}  # memory and copies only

@functools.cache
def composite(func): return func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)

def in_wider(func, args, kwargs):
    "A product of float16 in float32, rounded once at the end, as tensor cores do."
    wide = lambda t: t.to(HALF) if t.dtype is torch.float16 else t
    half = any(isinstance(a, torch.Tensor) and a.dtype is torch.float16 for a in args)
    if not half: return func(*args, **kwargs)
    out = func(*tree_map_only(torch.Tensor, wide, args), **tree_map_only(torch.Tensor, wide, kwargs))
    return tree_map_only(torch.Tensor, lambda t: t.to(torch.float16) if t.dtype is HALF else t, out)

def new_in(out, *sources):
    "Tensors with a storage that no source has: what is written in place stays where it was."
    old = {key_of(t) for t in tree_leaves(sources) if strided(t)}
    return [t for t in tree_leaves(out) if strided(t) and key_of(t) not in old]

class Count(TorchDispatchMode):
    "Gives what operations make to cards."
    def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):
        kwargs, where = kwargs or {}, getattr(here, 'where', NEW)
        card = owner_in(args, kwargs) if where is NEW else None if where is HOST else where
        if card is None: return func(*args, **kwargs)
        if composite(func):  # under inference_mode these come whole; their parts are what allocates
            with self: return func.decompose(*args, **kwargs)
        name = func.overloadpacket.__name__
        if not KERNELS and name not in NO_KERNEL and not func.is_view:
            raise launch_error('no kernel image is available for execution on the device')
        product = name in PRODUCTS and HALF is not torch.float16 and '.out' not in str(func)
        out = in_wider(func, args, kwargs) if product else func(*args, **kwargs)
        cards[card].operations += 1
        for t in new_in(out, args, kwargs): give(t, card)
        if time.monotonic() - getattr(here, 'told', 0) > .5: publish()
        return out

def is_device(x):
    return isinstance(x, torch.device) or isinstance(x, str) and x.partition(':')[0] in ('cpu', 'cuda', 'meta')

def number(x): return type(x) is int

READS = {'item', 'tolist', '__bool__', '__int__', '__float__', '__index__'}  # which wait for the card

class Redirect(TorchFunctionMode):
    "Sends what is asked of a card to the CPU."
    def __torch_function__(self, func, kinds, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, '__name__', '')
        special = getattr(self, f'on_{name}', None)
        if special: return special(func, args, kwargs)
        if name in READS and owner(args[0]) is not None: count('synchronised')
        if kwargs.get('pin_memory') is True: return self.pinned(func, args, kwargs)
        if kwargs.get('device') is None: return func(*args, **kwargs)
        card = card_of(kwargs['device'])
        if card is None: return func(*args, **kwargs)
        kwargs['device'] = 'cpu'
        with made_on(card): out = func(*args, **kwargs)
        if name in ('tensor', 'as_tensor', 'asarray'): return self.copied(out, card)
        for t in tree_leaves(out): give(t, card)
        return out

    def copied(self, tensor, card):
        "Data of the host, on a card."
        count('to_card')
        count('to_card_bytes', tensor.nbytes)
        if owner(tensor) is not None: return tensor
        with made_on(card): return tensor.clone()

    def pinned(self, func, args, kwargs):
        kwargs.pop('pin_memory')
        asked = kwargs.get('device')
        if asked is not None and card_of(asked) is not None: raise RuntimeError('Only dense CPU tensors can be pinned')
        with made_on(HOST): return pin(func(*args, **kwargs))

    def on_to(self, func, args, kwargs):
        "Every way of saying where to."
        source, rest = args[0], list(args[1:])
        other = next((a for a in [*rest, kwargs.get('other')] if isinstance(a, torch.Tensor)), None)
        at = next((i for i,a in enumerate(rest) if is_device(a) or i == 0 and number(a)), None)
        device = kwargs.get('device') if at is None else rest[at]
        if device is None and other is None: return func(*args, **kwargs)
        to = owner(other) if device is None else card_of(device)
        if to is not None and device is not None:
            if at is None: kwargs['device'] = torch.device('cpu')
            else: rest[at] = torch.device('cpu')
        elsewhere = device is not None and to is None and torch.device(device).type != 'cpu'  # meta, say
        if elsewhere or not strided(source): return func(source, *rest, **kwargs)
        non_blocking = kwargs.get('non_blocking') or any(a is True for a in rest[1:3])
        return self.move(source, to, lambda: func(source, *rest, **kwargs), non_blocking)

    def move(self, source, to, work, non_blocking=False):
        "The result of a copy that ends on a card, or on the host."
        come = owner(source)
        if come == to:
            with made_on(NEW if to is None else to): return work()
        self.tell(source.nbytes, come, to, is_pinned(source), non_blocking)
        with made_on(HOST if to is None else to):
            out = work()
            if key_of(out) == key_of(source): out = out.clone()
        if to is None: publish()  # a result leaves: the log is complete before anyone ends this process
        return out

    def tell(self, n, come, to, fixed, non_blocking):
        way = 'between_cards' if None not in (come, to) else 'to_card' if come is None else 'to_host'
        count(way)
        count(f'{way}_bytes', n)
        if way == 'to_card' and fixed: count('to_card_pinned')
        if not non_blocking: count('synchronised')

    def on_cuda(self, func, args, kwargs):
        device = args[1] if len(args) > 1 else kwargs.get('device')
        return self.move(args[0], card_of(device), lambda: args[0], kwargs.get('non_blocking'))

    def on_cpu(self, func, args, kwargs): return self.move(args[0], None, lambda: func(*args, **kwargs))

    def on_copy_(self, func, args, kwargs):
        to, source = args[:2]
        come, goes = (owner(t) if strided(t) else None for t in (source, to))
        if come != goes and strided(source) and strided(to):
            waits_not, host = kwargs.get('non_blocking') or args[2:3] == (True,), source if come is None else to
            self.tell(source.nbytes, come, goes, is_pinned(host), waits_not)
        return func(*args, **kwargs)

    def on_numpy(self, func, args, kwargs):
        card = owner(args[0])
        if card is None: return func(*args, **kwargs)
        raise TypeError(f"can't convert cuda:{card} device type tensor to numpy. "
                        'Use Tensor.cpu() to copy the tensor to host memory first.')

    on___array__ = on_numpy

    def on_pin_memory(self, func, args, kwargs):
        if owner(args[0]) is not None: raise RuntimeError('cannot pin a tensor of a card: only dense CPU tensors can be')
        if is_pinned(args[0]): return args[0]
        with made_on(HOST): return pin(args[0].clone())

    def on_is_pinned(self, func, args, kwargs): return is_pinned(args[0])

    def on_device(self, func, args, kwargs):
        "torch.device(1) is a card where there are cards."
        if func is torch.device and args and number(args[0]): return torch.device('cuda', args[0])
        return func(*args, **kwargs)

    def on_scaled_dot_product_attention(self, func, args, kwargs):
        "Where a card of this capability sends attention."
        card = owner(args[0])
        if card is None: return func(*args, **kwargs)
        names = 'query', 'key', 'value', 'attn_mask', 'dropout_p', 'is_causal'
        a = {**dict(attn_mask=None, dropout_p=0., is_causal=False), **dict(zip(names, args, strict=False)), **kwargs}
        q, k, v = a.pop('query'), a.pop('key'), a.pop('value')
        if a.get('enable_gqa') and CAPABILITY < (8, 0):
            math_kernel, more = torch.ops.aten._scaled_dot_product_attention_math, dict(scale=a.get('scale'), enable_gqa=True)
            return math_kernel(q, k, v, a['attn_mask'], a['dropout_p'], a['is_causal'], None, **more)[0]
        mask = a['attn_mask']
        if mask is not None and mask.dtype is torch.bool:  # the efficient kernel wants numbers
            a['attn_mask'] = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask.logical_not(), -math.inf)
        return func(q, k, v, **a)

# torch.cuda

class Stream:
    "Work is done when it is asked for, so a stream has nothing to wait for."
    def __init__(self, device=None, priority=0, **_):
        self.device, self.priority, self.cuda_stream = torch.device('cuda', card_of(device)), priority, 0
    def synchronize(self): count('synchronised')
    def query(self): return True
    def wait_event(self, event): pass
    def wait_stream(self, stream): pass
    def record_event(self, event=None):
        event = event or Event()
        event.record(self)
        return event

class Event:
    "A moment."
    def __init__(self, enable_timing=False, **_): self.timed, self.at = enable_timing, None
    def record(self, stream=None): self.at = time.perf_counter()
    def wait(self, stream=None): pass
    def query(self): return True
    def synchronize(self): count('synchronised')
    def elapsed_time(self, end):
        if not (self.timed and end.timed): raise ValueError('Both events must be created with enable_timing=True.')
        if None in (self.at, end.at): raise ValueError('Both events must be recorded before calculating elapsed time.')
        return 1000 * (end.at - self.at)

class Switch:
    "Another current card, or stream, for a while."
    def __init__(self, name, value): self.name, self.value = name, value
    def __enter__(self):
        self.before = getattr(here, self.name, None)
        if self.value is not None: setattr(here, self.name, self.value)
        return self
    def __exit__(self, *_):
        if self.before is not None: setattr(here, self.name, self.before)
        elif hasattr(here, self.name): delattr(here, self.name)

class DeviceSwitch(Switch):
    def __init__(self, device): super().__init__('card', None if device is None or device == -1 else card_of(device))

class StreamSwitch(Switch):
    def __init__(self, stream): super().__init__('stream', stream)

def named(device=None): return cards[card_of(device)]

def current_stream(device=None):
    stream = getattr(here, 'stream', None)
    return stream if stream is not None and card_of(device) == stream.device.index else Stream(device)

def properties(device=None):
    card_of(device)
    return SimpleNamespace(name=CARDS['name'], total_memory=CARDS['total'] * MIB, multi_processor_count=CARDS['processors'],
                           major=CAPABILITY[0], minor=CAPABILITY[1], warp_size=32, is_integrated=False)

def mem_get_info(device=None):
    card = named(device)
    card.use()
    return card.free(), CARDS['total'] * MIB

def empty_cache():
    count('empty_cache')
    with lock:
        for c in cards: c.give_back()
        publish()

def synchronize(device=None):
    named(device).use()
    count('synchronised')

def reset_peak(device=None):
    c = named(device)
    c.peak, c.most = c.now, c.reserved

def memory_stats(device=None):
    c = named(device)
    facts = {'num_ooms': c.ooms, 'num_alloc_retries': c.ooms}
    for kind, now, peak in ('allocated', c.now, c.peak), ('active', c.now, c.peak), ('reserved', c.reserved, c.most):
        facts |= {f'{kind}_bytes.all.current': now, f'{kind}_bytes.all.peak': peak}
    facts['inactive_split_bytes.all.current'] = c.reserved - c.now
    return facts

def set_fraction(fraction, device=None): named(device).fraction = fraction

def set_device(device): here.card = card_of(device)
def set_stream(stream): here.stream = stream
def bfloat16(including_emulation=True): return including_emulation or CAPABILITY >= (8, 0)  # a T4 says yes by default

def of_card(field): return lambda device=None: getattr(named(device), field)

ANSWERS = dict(
    is_available=lambda: bool(cards), device_count=lambda: len(cards), init=lambda: None, _lazy_init=lambda: None,
    is_initialized=lambda: any(c.context for c in cards), current_device=lambda: card_of(None), set_device=set_device,
    get_device_properties=properties, get_device_name=lambda device=None: properties(device).name,
    get_device_capability=lambda device=None: (properties(device).major, properties(device).minor),
    get_arch_list=lambda: [f'sm_{major}{minor}' for major,minor in ARCH], is_bf16_supported=bfloat16,
    mem_get_info=mem_get_info, memory_allocated=of_card('now'), memory_reserved=of_card('reserved'),
    max_memory_allocated=of_card('peak'), max_memory_reserved=of_card('most'), memory_stats=memory_stats,
    reset_peak_memory_stats=reset_peak, reset_max_memory_allocated=reset_peak, empty_cache=empty_cache,
    set_per_process_memory_fraction=set_fraction, ipc_collect=lambda: None, synchronize=synchronize,
    device=DeviceSwitch, stream=StreamSwitch, StreamContext=StreamSwitch, Stream=Stream, Event=Event,
    current_stream=current_stream, default_stream=Stream, set_stream=set_stream)

def modes_in_threads():
    "Threads that begin from here on have both modes."
    begin = threading.Thread._bootstrap_inner
    def with_modes(thread):
        with Redirect(), Count(): begin(thread)
    threading.Thread._bootstrap_inner = with_modes

MODES = []

def enter_modes():
    for mode in Redirect(), Count():
        mode.__enter__()
        MODES.append(mode)

def enter_in_main():
    "Where another thread imports torch the main one gets the modes as soon as it goes on."
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
    later = kind(lambda _: enter_modes() or 0)
    MODES.append(later)
    ctypes.pythonapi.Py_AddPendingCall(later, None)

def install():
    for name, answer in ANSWERS.items():
        setattr(torch.cuda, name, answer)
        if hasattr(torch.cuda.memory, name): setattr(torch.cuda.memory, name, answer)
    marks.extend(new_mark(f) for f in CARDS['faults'] if 'within' not in f)
    modes_in_threads()
    enter_modes()
    if threading.current_thread() is not threading.main_thread(): enter_in_main()
    atexit.register(publish)
