"NVIDIA's management library, as far as the project asks it; it stands in as `pynvml`."
from types import SimpleNamespace
from pretend_board import MIB, held, settings

NVML_TEMPERATURE_GPU = 0
class NVMLError(Exception): pass

def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return '580.0'
def nvmlDeviceGetCount(): return settings()['count']
def nvmlDeviceGetName(card): return settings()['name']
def nvmlDeviceGetPowerUsage(card): return 68_000
def nvmlDeviceGetTemperature(card, sensor): return 66
def nvmlDeviceGetUtilizationRates(card): return SimpleNamespace(gpu=97 if held(card) else 0, memory=50)

def nvmlDeviceGetHandleByIndex(card):
    if not 0 <= card < settings()['count']: raise NVMLError('Invalid Argument')
    return card

def nvmlDeviceGetMemoryInfo(card):
    cards = settings()
    free = cards['total'] * MIB - cards['taken'] * MIB - held(card)
    return SimpleNamespace(total=cards['board'] * MIB, free=free, used=cards['board'] * MIB - free)
