"""Numbers of tables and pages as text."""

SMALLEST_P = 0.001
MISSING = "n/a"


def p_value(value: float) -> str:
    """Format a probability with three decimals; smaller values as less than a thousandth."""
    if value < SMALLEST_P:
        return f"<{SMALLEST_P}"
    return f"{value:.3f}" if value < 1 else "1"


def percent(rate: float) -> str:
    """Format a share as a percentage with at most one decimal, never rounded to 0% or 100%."""
    if 0 < rate < 0.0005:
        return "<0.1%"
    if 0.9995 < rate < 1:
        return ">99.9%"
    text = f"{100 * rate:.1f}"
    return f"{text.removesuffix('.0')}%"


def nats(value: float) -> str:
    """Format a KL divergence with three significant digits, keeping trailing zeros."""
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.0e}"
    if abs(value) < 0.1:
        return f"{value:.4f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def short(value: object) -> str:
    """Format a parameter: numbers with four digits, other values unchanged."""
    try:
        return f"{float(str(value)):.4g}"
    except ValueError:
        return str(value)
