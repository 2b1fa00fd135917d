"""One settings module; all that differs between labs comes from the environment (env.py)."""

import sys
from datetime import timedelta
from pathlib import Path

import dj_database_url
from django.templatetags.static import static
from django.utils.translation import gettext_lazy as _

from labsite import env

BASE_DIR = Path(__file__).resolve().parent.parent
_given = env.read()

LAB_DATA_DIR: Path = _given["DATA_DIR"]
LAB_LOGS_DIR = LAB_DATA_DIR / "logs"
LAB_CONFIG_DIR = LAB_DATA_DIR / "config"
LAB_SPOOL_DIR = LAB_DATA_DIR / "spool"
LAB_CODE_DIR = LAB_DATA_DIR / "code"
LAB_NAME = _given["LAB_NAME"]
LAB_PUBLIC_URL = _given["PUBLIC_URL"]
LAB_CA_FILE = _given["CA_FILE"]
LAB_REDIS_URL = _given["REDIS_URL"]
LAB_SOCKET_DIR = _given["SOCKET_DIR"]
LAB_POOL_THREADS = _given["POOL_THREADS"]
LAB_TRUSTED_PROXIES = _given["TRUSTED_PROXIES"]
LAB_SELF_REGISTRATION = _given["SELF_REGISTRATION"]
LAB_DISPATCH_TASK = "experiments.tasks.dispatch"
LAB_TIDY_TASK = "sync.tasks.tidy"
LAB_HEARTBEAT_SECONDS = _given["HEARTBEAT_SECONDS"]
LAB_HEALTHY_SECONDS = _given["HEALTHY_SECONDS"]
LAB_STALE_SECONDS = _given["STALE_SECONDS"]
LAB_FOREIGN_MEMORY_BYTES = _given["FOREIGN_MEMORY_MIB"] * 1024**2
LAB_FOREIGN_UTILIZATION_PERCENT = _given["FOREIGN_UTILIZATION_PERCENT"]
LAB_GIVE_UP_AFTER_SECONDS = _given["GIVE_UP_AFTER_SECONDS"]
LAB_HOLD_BACK_AFTER_SECONDS = _given["HOLD_BACK_AFTER_SECONDS"]
LAB_BORROW_GPUS = _given["BORROW_GPUS"]
LAB_BORROW_HOURS = _given["BORROW_HOURS"]
LAB_MAX_FILE_BYTES = _given["MAX_FILE_BYTES"]
LAB_MAX_SWEEP_RUNS = _given["MAX_SWEEP_RUNS"]
LAB_DISK_RESERVE_BYTES = _given["DISK_RESERVE_BYTES"]
LAB_QUOTA_BYTES = _given["QUOTA_BYTES"]
LAB_QUOTA_RESERVE_BYTES = _given["QUOTA_RESERVE_BYTES"]
LAB_UNUSED_CODE_BYTES = _given["UNUSED_CODE_BYTES"]
LAB_KEEP_VERSIONS = _given["KEEP_VERSIONS"]
LAB_KEEP_UPLOADS_HOURS = _given["KEEP_UPLOADS_HOURS"]
LAB_KEEP_GIVEN_UP_DAYS = _given["KEEP_GIVEN_UP_DAYS"]
LAB_KEEP_TRASH_DAYS = _given["KEEP_TRASH_DAYS"]
#: Where people's notifications may go: hosts, `.example.org` for all below it; none: anywhere.
LAB_NOTIFY_HOSTS = _given["NOTIFY_HOSTS"]
LAB_METRICS_TOKEN = _given["METRICS_TOKEN"]
#: What seals people's secrets (experiments/sealing.py): given, or else kept in the file.
LAB_SECRETS_KEYS = _given["SECRETS_KEYS"]
LAB_SECRETS_KEY_FILE = LAB_DATA_DIR / "secrets_key"
#: (path prefix, bytes of a body), first match wins; labsite/pool.py enforces it.
LAB_BODY_LIMITS = [
    ("/api/sync/full/", LAB_MAX_FILE_BYTES + 64 * 1024),
    ("/api/sync/delta/", 4 * 1024**2 + 64 * 1024),
    ("/api/sync/batch/", 8 * 1024**2 + 64 * 1024),
    ("/api/code/files", 64 * 1024**2 + 64 * 1024),
    ("/", 10 * 1024**2),
]

SECRET_KEY = env.secret_key(LAB_DATA_DIR)
DEBUG = _given["DEBUG"]
ALLOWED_HOSTS = _given["ALLOWED_HOSTS"]
CSRF_TRUSTED_ORIGINS = [LAB_PUBLIC_URL] if LAB_PUBLIC_URL else []

INSTALLED_APPS = [
    # Its runserver only: the app imports Twisted, 25 MB that no other process has a use for.
    *(["daphne"] if "runserver" in sys.argv else []),
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "django_q",
    "axes",
    "labsite",
    "people",
    "devices",
    "experiments",
    "sync",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "labsite.pages.policy.PolicyMiddleware",
    "people.audit.DoorMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "labsite.pages.frame.FrameMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "labsite.urls"
ASGI_APPLICATION = "labsite.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "labsite.templating.Templates",
        "NAME": "django",  # by which others ask for it
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.i18n",
                "labsite.pages.frame.frame",
            ],
        },
    },
]

_database = dj_database_url.parse(
    _given["DATABASE_URL"], conn_max_age=None, conn_health_checks=True
)
if _database["ENGINE"] == "django.db.backends.sqlite3":
    # IMMEDIATE: in DEFERRED mode select-then-update fails with "database is locked" under load.
    # FULL: what was acknowledged survives a power cut. Both measured: docs/adr/0001.
    _database["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
    }
    # A database file, not shared memory: that one says "table is locked" to a second thread.
    _database["TEST"] = {"NAME": str(Path(_database["NAME"]).with_name("test.sqlite3"))}
if "runserver" in sys.argv:
    _database["CONN_MAX_AGE"] = 0  # a thread per request would keep a connection each
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

Q_CLUSTER = {
    "name": "lab",
    "orm": "default",
    "broker_class": "labsite.broker.WakingORM",
    "workers": 1,
    "timeout": 30,
    "retry": 60,
    "max_attempts": 1,  # dispatch is level-triggered: the next tick is its retry
    "save_limit": -1,  # successes are not kept
    "ack_failures": True,
    "catch_up": False,
    "label": "Dispatch",
}

if LAB_REDIS_URL:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            # redis-py's default drops a consumer that hears nothing for a while.
            "CONFIG": {"hosts": [{"address": LAB_REDIS_URL, "socket_timeout": None}]},
        }
    }
else:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels.layers.InMemoryChannelLayer",
            "CONFIG": {"group_expiry": 10 * 365 * 24 * 3600},
        }
    }

#: Of one process: who a token belongs to and such, for a second each.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 20_000},
    }
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTHENTICATION_BACKENDS = ["people.backend.Accounts"]
#: By a link that a manager hands on; whoever signs in meanwhile makes it worthless.
PASSWORD_RESET_TIMEOUT = 7 * 24 * 3600
# Too many wrong passwords for one account from one address (the pool's, which believes only
# LAB_TRUSTED_PROXIES): that pair waits, nobody else does.
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=10)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "labsite.pages.signin.address_of"
AXES_LOCKOUT_CALLABLE = "labsite.pages.signin.locked_out"
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = (
    False  # waiting is enough, whoever knocks meanwhile
)
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
CSRF_FAILURE_VIEW = "labsite.pages.errors.csrf_failure"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _given["HTTPS"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")  # set by the pool, never by a client
SECURE_REFERRER_POLICY = "same-origin"
# Over plain http a browser ignores it, and calls each page an error for it in its console.
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin" if _given["HTTPS"] else None
X_FRAME_OPTIONS = "DENY"

# Of the lab's mail server; none: no e-mail is offered.
EMAIL_HOST = _given["EMAIL_HOST"]
EMAIL_PORT = _given["EMAIL_PORT"]
EMAIL_HOST_USER = _given["EMAIL_USER"]
EMAIL_HOST_PASSWORD = _given["EMAIL_PASSWORD"]
EMAIL_USE_TLS = _given["EMAIL_SECURITY"] == "starttls"
EMAIL_USE_SSL = _given["EMAIL_SECURITY"] == "tls"
EMAIL_TIMEOUT = 5
DEFAULT_FROM_EMAIL = _given["EMAIL_FROM"] or f"lab@{EMAIL_HOST or 'localhost'}"

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("ko", _("Korean"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
FORMAT_MODULE_PATH = ["labsite.formats"]
USE_TZ = True
TIME_ZONE = _given["TIME_ZONE"]

# Strict on every page; /admin/ and the API's HTML name their own (labsite/pages/policy.py).
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
        "manifest-src": ["'self'"],
    }
}

STATIC_URL = "static/"
STATIC_ROOT = LAB_DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 10 * 1024**2
FILE_UPLOAD_TEMP_DIR = LAB_SPOOL_DIR  # a form's file may be larger than /tmp
SILENCED_SYSTEM_CHECKS = ["files.E001"]  # runlab makes the folder; a fresh clone has none

UNFOLD = {
    "SITE_TITLE": LAB_NAME,
    "SITE_HEADER": LAB_NAME,
    "SITE_SUBHEADER": _("Administration"),
    "SITE_URL": "/",
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": True,
    "DASHBOARD_CALLBACK": "labsite.deskfront.front",
    "SIDEBAR": {"navigation": "labsite.desknav.groups"},
    "SITE_FAVICONS": [
        {
            "rel": "icon", "type": "image/svg+xml",
            "href": lambda request: static("img/favicon.svg"),
        }
    ],
    "STYLES": [lambda request: static("css/desk.css")],
    "COLORS": {  # the accent of static/css/look.css, in unfold's steps
        "primary": {
            "50": "#f1f3fd", "100": "#e1e5fb", "200": "#c7cff7", "300": "#a3aff0",
            "400": "#92a1ff", "500": "#5b6ee8", "600": "#3d50cf", "700": "#3342ab",
            "800": "#2b3788", "900": "#27316c", "950": "#181d40",
        }
    },
}  # fmt: skip

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.SessionAuthentication",
        "people.auth.TokenAuthentication",
    ],
    "DEFAULT_PARSER_CLASSES": [
        "labsite.parsers.StrictJSONParser",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "labsite.api.Pages",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "labsite.api.exception_handler",
    "PAGE_SIZE": 50,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Lab server",
    "DESCRIPTION": "Devices, jobs and files of a deep-learning lab.",
    "VERSION": "0.1.0",
    "ENUM_NAME_OVERRIDES": {
        "JobState": "experiments.states.JobState.choices",
        "OnDeviceLost": "experiments.states.OnDeviceLost.choices",
        "DeviceState": "devices.models.DeviceState.choices",
    },
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "django-q": {"level": "WARNING"},
        "axes": {"level": "WARNING"},
        # The page that such a request gets says all; scanners would fill the log with these.
        "django.security.DisallowedHost": {"handlers": [], "propagate": False},
    },
}
