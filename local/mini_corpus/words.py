"""The words of corpus `mini`: English in upper case beside its Chinese."""

from __future__ import annotations


def _pairs(table: str) -> list[tuple[str, str]]:
    """'TOM 汤姆, NEW YORK 纽约' -> [('TOM', '汤姆'), ('NEW YORK', '纽约')]."""
    rows = [row.split() for row in table.split(",")]
    return [(" ".join(english), chinese) for *english, chinese in rows]


WORDS: dict[str, list[tuple[str, str]]] = {
    # people
    "name": _pairs("""
        TOM 汤姆, ANNA 安娜, PETER 彼得, MARY 玛丽, JAMES 詹姆斯, LUCY 露西, DAVID 大卫, EMMA 艾玛,
        FRANK 弗兰克, HELEN 海伦, GEORGE 乔治, JULIA 朱莉娅, KEVIN 凯文, LINDA 琳达, MARTIN 马丁, NANCY 南希,
        OSCAR 奥斯卡, ROBERT 罗伯特, SARAH 莎拉, SUSAN 苏珊, VICTOR 维克多, ALICE 爱丽丝, BRIAN 布莱恩,
        DANIEL 丹尼尔, FIONA 菲奥娜, HARRY 哈里, JACK 杰克, OLIVIA 奥利维亚, ZOE 佐伊"""),
    "surname": _pairs("""
        SMITH 史密斯, WILSON 威尔逊, TAYLOR 泰勒, JOHNSON 约翰逊, CLARK 克拉克, BAKER 贝克, TURNER 特纳,
        COOPER 库珀, MORGAN 摩根, PARKER 帕克, HUGHES 休斯, FOSTER 福斯特, MURPHY 墨菲"""),
    "relative": _pairs("""
        MY MOTHER 我妈妈, MY FATHER 我爸爸, MY SISTER 我姐姐, MY BROTHER 我哥哥, MY WIFE 我妻子,
        MY HUSBAND 我丈夫, MY UNCLE 我叔叔, MY AUNT 我阿姨, MY GRANDMOTHER 我奶奶, MY DAUGHTER 我女儿,
        MY SON 我儿子, MY NEIGHBOUR 我邻居, HIS TEACHER 他的老师, HER DOCTOR 她的医生, HIS LAWYER 他的律师,
        OUR MANAGER 我们的经理, YOUR FRIEND 你的朋友"""),
    "job": _pairs("""
        A DOCTOR 医生, A NURSE 护士, A TEACHER 老师, A LAWYER 律师, A DRIVER 司机, A FARMER 农民, A PAINTER 画家,
        A SINGER 歌手, A PILOT 飞行员, A COOK 厨师, AN ENGINEER 工程师, AN ACTOR 演员, A SOLDIER 士兵"""),
    # places
    "city": _pairs("""
        LONDON 伦敦, PARIS 巴黎, BERLIN 柏林, MADRID 马德里, ROME 罗马, VIENNA 维也纳, DUBLIN 都柏林, OSLO 奥斯陆,
        MOSCOW 莫斯科, CAIRO 开罗, TOKYO 东京, BEIJING 北京, SHANGHAI 上海, SINGAPORE 新加坡, SYDNEY 悉尼,
        TORONTO 多伦多, CHICAGO 芝加哥, BOSTON 波士顿, DENVER 丹佛, NEW YORK 纽约, HOUSTON 休斯敦, LISBON 里斯本,
        ATHENS 雅典, GENEVA 日内瓦, GLASGOW 格拉斯哥, MANCHESTER 曼彻斯特"""),
    "country": _pairs("""
        CHINA 中国, FRANCE 法国, GERMANY 德国, SPAIN 西班牙, ITALY 意大利, RUSSIA 俄罗斯, JAPAN 日本, INDIA 印度,
        CANADA 加拿大, MEXICO 墨西哥, BRAZIL 巴西, EGYPT 埃及, AUSTRALIA 澳大利亚, SWEDEN 瑞典, GREECE 希腊"""),
    "place": _pairs("""
        THE STATION 车站, THE AIRPORT 机场, THE LIBRARY 图书馆, THE HOSPITAL 医院, THE MUSEUM 博物馆,
        THE MARKET 市场, THE BANK 银行, THE SCHOOL 学校, THE PARK 公园, THE POST OFFICE 邮局, THE THEATRE 剧院,
        THE BEACH 海滩, THE HOTEL 酒店, THE BAKERY 面包店, THE CHURCH 教堂, THE STADIUM 体育场, THE ZOO 动物园,
        THE FACTORY 工厂, THE RESTAURANT 餐厅, THE CINEMA 电影院, THE HARBOUR 港口, THE POLICE STATION 警察局,
        THE SWIMMING POOL 游泳池"""),
    "room": _pairs("""
        THE KITCHEN 厨房, THE BEDROOM 卧室, THE BATHROOM 浴室, THE LIVING ROOM 客厅, THE OFFICE 办公室,
        THE GARAGE 车库, THE GARDEN 花园, THE BASEMENT 地下室, THE HALL 大厅, THE DINING ROOM 饭厅"""),
    # things
    "device": _pairs("""
        THE LIGHT 灯, THE HEATER 暖气, THE RADIO 收音机, THE TELEVISION 电视, THE FAN 风扇, THE ALARM 警报器,
        THE CAMERA 摄像头, THE COMPUTER 电脑, THE PRINTER 打印机, THE SPEAKER 音箱, THE WASHING MACHINE 洗衣机"""),
    "opening": _pairs("THE DOOR 门, THE WINDOW 窗户, THE CURTAINS 窗帘, THE CUPBOARD 柜子, THE BLINDS 百叶窗"),
    "thing": _pairs("""
        KEYS 钥匙, WALLET 钱包, GLASSES 眼镜, UMBRELLA 雨伞, PASSPORT 护照, TICKET 票, PHONE 手机, WATCH 手表,
        NOTEBOOK 笔记本, SUITCASE 行李箱, BICYCLE 自行车, GUITAR 吉他, TOOTHBRUSH 牙刷, BLANKET 毯子"""),
    "wearable": _pairs(
        "SHIRT 衬衫, DRESS 连衣裙, COAT 外套, SKIRT 短裙, SWEATER 毛衣, SCARF 围巾, HAT 帽子, JACKET 夹克, BAG 包"
    ),
    "color": _pairs("""
        RED 红色, BLUE 蓝色, GREEN 绿色, YELLOW 黄色, BLACK 黑色, WHITE 白色, BROWN 棕色, PURPLE 紫色, PINK 粉色,
        GREY 灰色, SILVER 银色"""),
    "vehicle": _pairs("CAR 汽车, TRUCK 卡车, TAXI 出租车, BUS 公交车, MOTORCYCLE 摩托车, TRACTOR 拖拉机"),
    "animal": _pairs("DOG 狗, RABBIT 兔子, PARROT 鹦鹉, GOAT 山羊, MONKEY 猴子, TIGER 老虎, TURTLE 乌龟, PENGUIN 企鹅"),
    "document": _pairs("""
        THE REPORT 报告, THE CONTRACT 合同, THE INVOICE 发票, THE LETTER 信, THE PICTURE 图片, THE LIST 清单,
        THE BUDGET 预算, THE TIMETABLE 时间表, THE MENU 菜单, THE MAP 地图"""),
    # food: counted goods carry their measure word before the noun
    "goods": _pairs("""
        APPLES 个苹果, LEMONS 个柠檬, EGGS 个鸡蛋, TOMATOES 个西红柿, POTATOES 个土豆, ONIONS 个洋葱, BANANAS 根香蕉,
        CARROTS 根胡萝卜, BOTTLES OF WATER 瓶水, BOTTLES OF WINE 瓶葡萄酒, BOXES OF RICE 盒米, CUPS OF TEA 杯茶,
        CUPS OF COFFEE 杯咖啡, GLASSES OF MILK 杯牛奶, LOAVES OF BREAD 条面包, BAGS OF SUGAR 袋糖,
        BAGS OF FLOUR 袋面粉, KILOS OF FISH 公斤鱼, KILOS OF CHICKEN 公斤鸡肉, JARS OF HONEY 罐蜂蜜,
        PIECES OF CHEESE 块奶酪, CANS OF BEANS 罐豆子, PENCILS 支铅笔, BATTERIES 节电池, STAMPS 张邮票,
        TOWELS 条毛巾, PLATES 个盘子, CHAIRS 把椅子"""),
    "food": _pairs("""
        FISH 鱼, CHICKEN 鸡肉, BEEF 牛肉, RICE 米饭, NOODLES 面条, SOUP 汤, SALAD 沙拉, BREAD 面包, CHEESE 奶酪,
        PIZZA 披萨, CHOCOLATE 巧克力, MUSHROOMS 蘑菇, ICE CREAM 冰淇淋"""),
    "drink": _pairs("COFFEE 咖啡, TEA 茶, WATER 水, MILK 牛奶, ORANGE JUICE 橙汁, BEER 啤酒, RED WINE 红酒"),
    "meal": _pairs("BREAKFAST 早餐, LUNCH 午餐, DINNER 晚餐"),
    # what people do, know, hear
    "activity": _pairs("""
        PLAY FOOTBALL 踢足球, PLAY CHESS 下棋, GO SWIMMING 去游泳, READ A BOOK 看书, WATCH A FILM 看电影,
        CLEAN THE HOUSE 打扫房子, COOK DINNER 做晚饭, WASH THE DISHES 洗碗, WALK THE DOG 遛狗, WRITE A LETTER 写信,
        BUY A PRESENT 买礼物, VISIT A FRIEND 拜访朋友, FIX THE ROOF 修屋顶, SEE THE DENTIST 看牙医,
        PLAY THE PIANO 弹钢琴, GO FISHING 去钓鱼, WATER THE FLOWERS 浇花, CLIMB THE MOUNTAIN 爬山, RIDE A HORSE 骑马"""),
    "sport": _pairs(
        "FOOTBALL 踢足球, TENNIS 打网球, BASKETBALL 打篮球, HOCKEY 打曲棍球, CRICKET 打板球, GOLF 打高尔夫"
    ),
    "music": _pairs("JAZZ 爵士乐, ROCK MUSIC 摇滚乐, CLASSICAL MUSIC 古典音乐, FOLK SONGS 民歌, PIANO MUSIC 钢琴曲"),
    "subject": _pairs(
        "HISTORY 历史, PHYSICS 物理, CHEMISTRY 化学, BIOLOGY 生物, GEOGRAPHY 地理, MEDICINE 医学, ART 艺术"
    ),
    "language": _pairs(
        "ENGLISH 英语, CHINESE 汉语, FRENCH 法语, GERMAN 德语, SPANISH 西班牙语, RUSSIAN 俄语, JAPANESE 日语"
    ),
    # how things are; the Chinese weather follows 会, the other adjectives follow 很 or 太
    "weather": _pairs("""
        RAINY 下雨, SUNNY 是晴天, CLOUDY 多云, WINDY 刮风, FOGGY 有雾, STORMY 有暴风雨, COLD 很冷, HOT 很热,
        WARM 很暖和"""),
    "quality": _pairs("DIFFICULT 难, EASY 容易, BORING 无聊, INTERESTING 有趣, IMPORTANT 重要, USEFUL 有用"),
    "size": _pairs("BIG 大, SMALL 小, HEAVY 重, LONG 长, SHORT 短, OLD 旧, DIRTY 脏, EXPENSIVE 贵, CHEAP 便宜"),
    "feeling": _pairs("TIRED 累, HAPPY 高兴, HUNGRY 饿, THIRSTY 渴, ANGRY 生气, NERVOUS 紧张, BUSY 忙, WORRIED 担心"),
    # time and measure
    "vague_time": _pairs("""
        TODAY 今天, TOMORROW 明天, TONIGHT 今晚, TOMORROW MORNING 明天早上, THIS AFTERNOON 今天下午, NEXT WEEK 下周,
        NEXT MONTH 下个月, THIS WEEKEND 这个周末, NEXT YEAR 明年, ON SUNDAY 星期天, ON MONDAY 星期一,
        ON TUESDAY 星期二, ON WEDNESDAY 星期三, ON THURSDAY 星期四, ON FRIDAY 星期五, ON SATURDAY 星期六"""),
    "past_time": _pairs("""
        YESTERDAY 昨天, LAST NIGHT 昨晚, LAST WEEK 上周, LAST YEAR 去年, LAST MONTH 上个月, LAST MONDAY 上周一,
        LAST FRIDAY 上周五, LAST SUNDAY 上周日"""),
    "often": _pairs(
        "EVERY DAY 每天, EVERY MORNING 每天早上, EVERY WEEK 每周, EVERY EVENING 每天晚上, EVERY SATURDAY 每周六"
    ),
    "weekday": _pairs("""
        MONDAY 星期一, TUESDAY 星期二, WEDNESDAY 星期三, THURSDAY 星期四, FRIDAY 星期五, SATURDAY 星期六,
        SUNDAY 星期天"""),
    "month": _pairs("""
        JANUARY 一月, FEBRUARY 二月, MARCH 三月, APRIL 四月, MAY 五月, JUNE 六月, JULY 七月, AUGUST 八月,
        SEPTEMBER 九月, OCTOBER 十月, NOVEMBER 十一月, DECEMBER 十二月"""),
    "direction": _pairs("LEFT 左, RIGHT 右"),
    "compass": _pairs("NORTH 北, SOUTH 南, EAST 东, WEST 西"),
    "length_unit": _pairs("METRES 米, KILOMETRES 公里, MILES 英里"),
    "mass_unit": _pairs("POUNDS 磅, KILOS 公斤, GRAMS 克"),
    "short_unit": _pairs("SECONDS 秒, MINUTES 分钟, HOURS 小时"),
    "long_unit": _pairs("DAYS 天, WEEKS 周, MONTHS 个月, YEARS 年"),
}
